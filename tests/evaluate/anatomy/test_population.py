"""The anatomy of two folders of phantoms: every figure is there, and damage moves the right ones."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from fundusforge.evaluate.anatomy.population import MEASURES, anatomies
from fundusforge.evaluate.evidence import Evidence, ImageSet, Judge
from fundusforge.evaluate.figures import Results
from fundusforge.evaluate.plausibility import rows, usual
from fundusforge.evaluate.stage import EvaluateConfig, evaluate
from fundusforge.images import read_image, read_mask, write_image
from fundusforge.records import Mask, Record, read_folder, write_metadata
from fundusforge.sources.phantom import Eye, draw_eye

SIZE = 256


@lru_cache(maxsize=16)
def drawn_eye(seed: int) -> Eye:
    return draw_eye(seed, size=SIZE)


def write_phantoms(folder: Path, seeds: range, *, damaged: bool = False) -> Path:
    """Write a dataset folder of phantoms; damaged ones are torn and noisy, the first has lost its disc."""
    for name in ("images", "vessels", "disc", "field_of_view"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records = []
    for seed in seeds:
        eye = drawn_eye(seed)
        pictures = {name: eye.masks[name] for name in ("vessels", "disc")}
        pictures |= {"images": eye.image, "field_of_view": eye.field_of_view}
        if damaged:
            rows, columns = np.mgrid[:SIZE, :SIZE]
            torn = np.hypot(rows - eye.disc_centre[1], columns - eye.disc_centre[0]) % 30 < 5
            pictures["vessels"] = np.where(torn, 0, eye.masks["vessels"]).astype(np.uint8)
            noise = np.random.default_rng(seed).normal(0, 12, eye.image.shape)
            pictures["images"] = (eye.image + noise).clip(0, 255).astype(np.uint8)
            if seed == seeds[0]:
                pictures["disc"] = np.zeros_like(eye.masks["disc"])
        for name, picture in pictures.items():
            write_image(folder / name / f"{seed}.png", picture)
        masks = {name: Mask(path=f"{name}/{seed}.png", origin="phantom") for name in ("vessels", "disc")}
        records.append(
            Record(
                image=f"images/{seed}.png", patient=f"phantom-{seed}", source="phantom", masks=masks,
                field_of_view=f"field_of_view/{seed}.png", eye=eye.eye,
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantoms")
    return {
        "real": write_phantoms(root / "real", range(6)),
        "whole": write_phantoms(root / "whole", range(20, 24)),
        "torn": write_phantoms(root / "torn", range(20, 24), damaged=True),
    }


def judged(folders: dict[str, Path], name: str, out: Path, **judges: Judge) -> Results:
    config = EvaluateConfig(
        synthetic=folders[name], against=folders["real"], out=out, metrics=("anatomy",), draws=100,
        floor_repeats=20,
    )  # fmt: skip
    return evaluate(config, judge=judges.get("vessels"), judges={k: judges[k] for k in judges if k == "disc"})


@pytest.fixture(scope="module")
def results(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    return tuple(judged(folders, name, tmp_path_factory.mktemp(name)) for name in ("whole", "torn"))


def test_every_measure_is_a_figure(results: tuple[Results, Results]) -> None:
    whole = results[0]
    names = [*(name for _, name, *_ in MEASURES), "anatomy_violations"]
    assert [figure.name for figure in whole.figures if not figure.name.endswith("_d")] == names
    assert "needs a segmenter of the disc" in whole.figure("disc_offset").reason
    for name in names:
        if name == "disc_offset":
            continue
        figure = whole.figure(name)
        assert figure.value is not None, name
        assert figure.real is not None, name
        assert (
            figure.extractor == "vessels: phantom against phantom masks; disc: phantom against phantom masks"
        )
    assert "Holm's correction over" in whole.figure("vessel_calibre_d").notes[0]


def test_like_is_within_the_floor_or_near(results: tuple[Results, Results]) -> None:
    """Phantoms against phantoms of other seeds: no figure is far outside the floor."""
    whole = results[0]
    for name in ("vessel_calibre", "vessel_fractal_dimension", "fovea_distance", "disc_diameter"):
        figure = whole.figure(name)
        assert figure.low - 0.2 * abs(figure.real) < figure.floor.high
        assert figure.high + 0.2 * abs(figure.real) > figure.floor.low


def test_damage_moves_what_it_damages(results: tuple[Results, Results]) -> None:
    """Every third piece erased, noise, and a disc that is gone."""
    whole, torn = results
    for name in ("vessels_broken", "anatomy_violations"):
        assert torn.figure(name).value > whole.figure(name).value + 1
        assert torn.figure(name).value > torn.figure(name).floor.high
    for name in ("vessel_snr_kim", "vessel_snr_usual"):
        assert torn.figure(name).value < whole.figure(name).value - 5
    assert (whole.figure("disc_found").value, torn.figure("disc_found").value) == (1.0, 0.75)
    assert torn.figure("vessel_snr_kim").n == 3
    assert torn.figure("vessels_broken_d").low > 1


def test_rows_name_what_is_wrong(folders: dict[str, Path]) -> None:
    """Each torn image breaks a rule in words; the one without a disc says so; all is JSON."""
    sets = {name: ImageSet(folder=folder, records=read_folder(folder)) for name, folder in folders.items()}
    evidence = Evidence(
        synthetic=sets["torn"], real=sets["real"], judge=None, size=SIZE, margin=0.2, reference=None, seed=0,
        draws=100, repeats=10,
    )  # fmt: skip
    limits = usual(anatomies(evidence, sets["real"]))
    torn = rows(sets["torn"], anatomies(evidence, sets["torn"]), limits)
    whole = rows(sets["whole"], anatomies(evidence, sets["whole"]), limits)
    assert all(any("broken vessels" in words for words in row.violations) for row in torn)
    assert [row.image for row in torn if "no optic disc" in row.violations] == ["images/20.png"]
    assert sum(row.score for row in torn) > sum(row.score for row in whole) + 3
    stored = json.loads(json.dumps([row.to_dict() for row in torn], allow_nan=False))
    assert stored[0]["score"] == len(stored[0]["violations"])
    assert stored[0]["anatomy"]["disc_found"] is False


def test_judges_read_both_sets(folders: dict[str, Path], tmp_path: Path) -> None:
    """A segmenter that gives back the untorn vessels hides the tear; one of the disc gives back the disc."""
    known = {}
    for name in ("torn", "real"):
        for record in read_folder(folders[name]):
            seed = Path(record.image).name
            source = folders["whole" if name == "torn" else "real"]
            known[read_image(folders[name] / record.image).tobytes()] = source, seed

    def reader(mask: str) -> Judge:
        def segment(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
            folder, seed = known[image.tobytes()]
            return (read_mask(folder / mask / seed) / 255).astype(np.float32)

        return Judge(name=f"{mask} reader", segment=segment, threshold=0.5)

    found = judged(folders, "torn", tmp_path, vessels=reader("vessels"), disc=reader("disc"))
    assert found.figure("vessels_broken").value < 3
    assert found.figure("disc_found").value == 1
    assert found.figure("vessels_broken").extractor == (
        "vessels: vessels reader, both sets; disc: disc reader, both sets"
    )


def test_a_disc_that_is_gone_or_astray_is_noticed(folders: dict[str, Path], tmp_path: Path) -> None:
    """The judge gives back the masks, but for three images: no disc, a speck, and a disc 50 pixels lower."""
    known = {}
    for name in ("whole", "real"):
        for record in read_folder(folders[name]):
            path = folders[name] / record.image
            known[read_image(path).tobytes()] = path.name, read_mask(folders[name] / "disc" / path.name)

    def segment(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
        name, disc = known[image.tobytes()]
        found = np.zeros(disc.shape, np.float32)
        if name == "21.png":
            found[100:103, 100:103] = 1
        elif name == "22.png":
            found = (np.roll(disc, 50, axis=0) / 255).astype(np.float32)
        elif name != "20.png":
            found = (disc / 255).astype(np.float32)
        return found

    found = judged(folders, "whole", tmp_path, disc=Judge(name="d", segment=segment, threshold=0.5))
    assert found.figure("disc_found").value == 0.5 and found.figure("disc_found").real == 1
    offset = found.figure("disc_offset")
    assert offset.n == 2 and offset.value > 0.5 and offset.real == pytest.approx(0, abs=0.02)
    broken = {Path(each.image).name: each.violations for each in (*found.atlas.least, *found.atlas.most)}
    assert "no optic disc" in broken["20.png"] and "no optic disc" in broken["21.png"]
    assert any("astray" in words for words in broken["22.png"])
    assert not any("disc" in words and "across" not in words for words in broken["23.png"])


def test_without_masks_and_judge_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    write_phantoms(bare, range(20, 22))
    write_metadata(
        bare, [Record(image=r.image, patient=r.patient, source=r.source) for r in read_folder(bare)]
    )
    found = judged({"bare": bare, "real": folders["real"]}, "bare", tmp_path)
    assert all(figure.value is None for figure in found.figures)
    assert "segmenter" in found.figure("vessel_calibre").reason
    evidence = Evidence(
        synthetic=ImageSet(folder=bare, records=read_folder(bare)), real=ImageSet(folder=bare, records=[]),
        judge=None, size=SIZE, margin=0.2, reference=None, seed=0, draws=100, repeats=10,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"images/20.png has no vessel mask"):
        anatomies(evidence, evidence.synthetic)
