"""The stage on dataset folders of phantoms: planted copies are found, other eyes are not, nothing is lost."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from fundusforge.annotate.segmenter import Segmenter
from fundusforge.audit.findings import AUDIT, OFFENCES, read_audit
from fundusforge.audit.planted import COPIES, Plant, plant
from fundusforge.audit.quarantine import quarantine
from fundusforge.audit.stage import QUARANTINE, AuditConfig, Sets, audit
from fundusforge.audit.tally import wilson
from fundusforge.cli import main
from fundusforge.cli.audit import READING, quick_judge
from fundusforge.config import ConfigError
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.images import write_image
from fundusforge.records import DatasetError, Record, read_folder, write_metadata
from fundusforge.sources.phantom import draw_eye

SIZE = 128
Honest = tuple[Path, Path, Path, list[Plant]]


def write_eyes(folder: Path, seeds: range, *, synthetic: bool = False) -> list[Record]:
    """Write phantoms as a dataset folder, the first two of one patient."""
    for name in ("images", "field_of_view"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records = []
    for place, seed in enumerate(seeds):
        eye = draw_eye(seed, size=SIZE)
        file = f"{seed:04d}.png"
        write_image(folder / "images" / file, eye.image)
        write_image(folder / "field_of_view" / file, eye.field_of_view)
        records.append(
            Record(
                image=f"images/{file}", field_of_view=f"field_of_view/{file}",
                patient=f"p{seeds.start if place < 2 else seed}", source="drawn", synthetic=synthetic,
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return records


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    """Training and held-out phantoms, and a folder of other phantoms among which copies were planted."""
    root = tmp_path_factory.mktemp("audit")
    train, holdout, synthetic = root / "train", root / "holdout", root / "synthetic"
    write_eyes(train, range(8))
    write_eyes(holdout, range(100, 112))
    honest = write_eyes(synthetic, range(200, 204), synthetic=True)
    sets = [ImageSet(folder=each, records=read_folder(each)) for each in (train, holdout)]
    plants = plant(synthetic, train=sets[0], others=sets[1], each=1, seed=0, kinds=(*COPIES, "half"))
    write_metadata(synthetic, [*honest, *(each.record for each in plants)])
    return train, holdout, synthetic, plants


def config(folders: Honest, out: Path, **settings: object) -> AuditConfig:
    return AuditConfig(synthetic=folders[2], train=[folders[0]], holdout=[folders[1]], out=out, **settings)  # type: ignore[arg-type]


def test_planted_copies_are_found_and_other_eyes_are_not(folders: Honest, tmp_path: Path) -> None:
    result = audit(config(folders, tmp_path))
    found = {finding.image: finding for finding in result.findings}
    for each in folders[3]:
        finding = found.pop(each.record.image)
        assert finding.offends, each
        assert finding.neighbour == each.source, each
        assert finding.verdict == ("half copy" if each.kind == "half" else "copy"), each
        assert finding.p == pytest.approx(1 / 12), "twelve pictures of eleven patients, none as near"
    assert {finding.verdict for finding in found.values()} <= {"near", "clear"}
    assert len(found) == 4
    assert read_audit(tmp_path / AUDIT) == result
    share = result.figure("audit_offenders")
    assert share.value == pytest.approx(6 / 10) and share.low is not None and share.low > 0.2
    nearer = result.figure("audit_nearer_pixels")
    assert nearer.value is not None and nearer.value > 0.6, "half of the set crowds the training images"
    assert result.figure("audit_same_patient").value is None
    assert any("false alarm rate" in warning for warning in result.warnings)
    assert any("Vessel trees were not compared" in warning for warning in result.warnings)
    for record, finding in zip(read_folder(folders[2]), result.findings, strict=True):
        assert finding.sha256 == {
            what: hashlib.sha256((folders[2] / name).read_bytes()).hexdigest()
            for what, name in record.files().items()
        }


def test_a_picture_that_changes_under_the_audit_stops_it(folders: Honest, tmp_path: Path) -> None:
    synthetic = shutil.copytree(folders[2], tmp_path / "synthetic")
    first = read_folder(synthetic)[0].image

    def swap(_: Sets) -> tuple[()]:
        shutil.copyfile(folders[1] / "images" / "0100.png", synthetic / first)
        return ()

    settings = AuditConfig(
        synthetic=synthetic, train=[folders[0]], holdout=[folders[1]], out=tmp_path / "out"
    )
    with pytest.raises(DatasetError, match=f"{first}: changed while"):
        audit(settings, further=swap)
    assert not (tmp_path / "out" / AUDIT).exists()


def test_copies_of_several_training_folders_are_found_and_named(
    folders: Honest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The halves of the training set in two folders give the findings of the whole, by the command line."""
    records = read_folder(folders[0])
    parts = {"a": records[:4], "b": records[4:]}
    for name, part in parts.items():
        shutil.copytree(folders[0], tmp_path / name)
        write_metadata(tmp_path / name, [dataclasses.replace(r, source=name, terms="CC0") for r in part])
    words = ["audit", str(folders[2]), "--train", str(tmp_path / "a"), str(tmp_path / "b"), "--holdout"]
    words += [str(folders[1]), "--out", str(tmp_path / "out"), "--quiet"]
    with (
        mock.patch("fundusforge.cli.audit.quick_judge", return_value=None),
        mock.patch("fundusforge.cli.judging.extractor", return_value=None),
    ):
        assert main(words) == 1
    capsys.readouterr()
    result = read_audit(tmp_path / "out" / AUDIT)
    owner = {r.image: name for name, part in parts.items() for r in part}
    found = {finding.image: finding for finding in result.findings}
    for each in folders[3]:
        assert found[each.record.image].offends
        assert found[each.record.image].neighbour == f"{owner[each.source]}/{each.source}"
    assert len(result.offenders()) == len(folders[3])
    train = result.train
    assert [folder.folder for folder in train.folders] == ["../a", "../b"]
    assert (train.images, train.patients, [f.images for f in train.folders]) == (8, 7, [4, 4])
    assert train.sources == ("a", "b") and train.terms == ("a: CC0", "b: CC0")


def test_a_patient_in_two_splits_of_two_folders_is_refused(folders: Honest, tmp_path: Path) -> None:
    records = read_folder(folders[0])
    for name, split in (("a", "train"), ("b", "test")):
        shutil.copytree(folders[0], tmp_path / name)
        write_metadata(tmp_path / name, [dataclasses.replace(r, split=split) for r in records])
    settings = AuditConfig(
        synthetic=folders[2], train=[tmp_path / "a", tmp_path / "b"], holdout=[folders[1]], out=tmp_path
    )
    with pytest.raises(DatasetError, match="7 patients stand in more than one split"):
        audit(settings)


def test_what_was_trained_on_is_never_held_out(folders: Honest, tmp_path: Path) -> None:
    """A folder of both, beside another training folder: its images of other splits alone tell chance."""
    shutil.copytree(folders[0], tmp_path / "a")
    records = read_folder(folders[0])
    both = [dataclasses.replace(r, split="train" if i < 2 else "test") for i, r in enumerate(records)]
    write_metadata(tmp_path / "a", both)
    train = [dataclasses.replace(r, split="train") for r in read_folder(folders[1])]
    shutil.copytree(folders[1], tmp_path / "b")
    write_metadata(tmp_path / "b", train)
    settings = AuditConfig(
        synthetic=folders[2], train=[tmp_path / "a", tmp_path / "b"], train_splits=("train",),
        holdout=[tmp_path / "a"], out=tmp_path / "out",
    )  # fmt: skip
    result = audit(settings)
    assert (result.train.images, result.holdout.images) == (14, 6)


def test_a_judge_lets_trees_be_compared(folders: Honest, tmp_path: Path) -> None:
    dark = Judge(
        name="dark", threshold=0.5,
        segment=lambda image, _: (image[..., 1] < 60).astype(np.float32) * (image[..., 0] > 20),
    )  # fmt: skip
    result = audit(config(folders, tmp_path), judge=dark)
    assert {each.test for each in result.findings[0].likeness} >= {"trees", "trees_half"}
    assert result.figure("audit_nearer_trees").extractor == "vessels by dark"
    assert not any("not compared" in warning for warning in result.warnings)


def test_fellow_eyes_are_reported_apart_and_never_enter_chance(folders: Honest, tmp_path: Path) -> None:
    train = read_folder(folders[0])
    twice = ImageSet(folder=folders[0], records=train)
    plain = audit(config(folders, tmp_path / "plain"))
    again = tmp_path / "holdout"
    copies = plant(again, train=twice, others=twice, each=2, seed=3, kinds=("recoloured",))
    shutil.copytree(folders[1], again, dirs_exist_ok=True)
    names = {record.image: record.patient for record in train}
    kin = [
        Record(image=each.record.image, field_of_view=each.record.field_of_view, source="drawn",
               patient=names[each.source])
        for each in copies
    ]  # fmt: skip
    write_metadata(again, [*read_folder(folders[1]), *kin])
    result = audit(
        AuditConfig(synthetic=folders[2], train=[folders[0]], holdout=[again], out=tmp_path / "kin")
    )
    same = result.figure("audit_same_patient")
    assert same.value == 1 and same.n_real == 2, "a copy of one's own picture is near, and said apart"
    pixels = {row.test: row for row in result.chance}["pixels"]
    assert pixels.largest < 0.6, "but it does not tell what chance gives"
    assert plain.chance[0].images == 12 and pixels.images == 14


def test_a_patient_under_two_names_does_not_hide_copies(folders: Honest, tmp_path: Path) -> None:
    again = tmp_path / "holdout"
    train = ImageSet(folder=folders[0], records=read_folder(folders[0]))
    twin = plant(again, train=train, others=train, each=1, seed=3, kinds=("recoloured",))[0]
    shutil.copytree(folders[1], again, dirs_exist_ok=True)
    record = dataclasses.replace(twin.record, synthetic=False, structure_from_patient=False)
    write_metadata(again, [*read_folder(folders[1]), record])
    result = audit(
        AuditConfig(synthetic=folders[2], train=[folders[0]], holdout=[again], out=tmp_path / "out")
    )
    assert len(result.offenders()) == 6
    assert result.holdout.images == 12
    assert any(record.image in warning and twin.source in warning for warning in result.warnings)


def test_offenders_move_aside_and_nothing_is_lost(dataset_folder: Path, tmp_path: Path) -> None:
    folder, records = dataset_folder, read_folder(dataset_folder)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
    moved = quarantine(folder, [records[1].image], tmp_path / QUARANTINE)
    assert [record.image for record in moved] == [records[1].image]
    assert [record.image for record in read_folder(folder)] == [
        records[0].image,
        *(r.image for r in records[2:]),
    ]
    assert read_folder(tmp_path / QUARANTINE) == [records[1]]
    assert not (folder / records[1].image).exists()
    quarantine(folder, [records[2].image], tmp_path / QUARANTINE)
    assert read_folder(tmp_path / QUARANTINE) == records[1:3]
    after = {
        path.relative_to(place): path.read_bytes()
        for place in (folder, tmp_path / QUARANTINE) for path in place.rglob("*.png")
    }  # fmt: skip
    assert after == before
    with pytest.raises(DatasetError, match="no image 'images/none.png'"):
        quarantine(folder, ["images/none.png"], tmp_path / QUARANTINE)


@pytest.mark.parametrize("stop", ["_copy", "write_metadata", "second write", "unlink"])
def test_a_killed_quarantine_loses_nothing_and_can_be_finished(
    dataset_folder: Path, tmp_path: Path, stop: str
) -> None:
    folder, out, records = dataset_folder, tmp_path / QUARANTINE, read_folder(dataset_folder)
    module = "fundusforge.audit.quarantine"
    calls = 0

    def second(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        write_metadata(*arguments)  # type: ignore[arg-type]

    killed = KeyboardInterrupt()
    patch = {
        "_copy": lambda: mock.patch(f"{module}._copy", side_effect=killed),
        "write_metadata": lambda: mock.patch(f"{module}.write_metadata", side_effect=killed),
        "second write": lambda: mock.patch(f"{module}.write_metadata", side_effect=second),
        "unlink": lambda: mock.patch("pathlib.Path.unlink", side_effect=killed),
    }[stop]()
    with patch, pytest.raises(KeyboardInterrupt):
        quarantine(folder, [records[1].image], out)
    left = read_folder(folder)  # complete, with all of its files
    held = read_folder(out) if (out / "metadata.jsonl").exists() else []
    assert {record.image for record in [*left, *held]} == {record.image for record in records}
    again = [records[1].image] if records[1] in left else []
    quarantine(folder, again, out)
    assert read_folder(folder) == [records[0], *records[2:]]
    assert read_folder(out) == [records[1]]
    assert not (folder / records[1].image).exists()


def test_quarantine_refuses_to_overwrite(dataset_folder: Path, tmp_path: Path) -> None:
    folder, out, records = dataset_folder, tmp_path / QUARANTINE, read_folder(dataset_folder)
    (out / "images").mkdir(parents=True)
    (out / records[0].image).write_bytes(b"another")
    with pytest.raises(DatasetError, match="another picture"):
        quarantine(folder, [records[0].image], out)
    assert read_folder(folder) == records


def test_swapped_and_overlapping_folders_are_refused(folders: Honest, tmp_path: Path) -> None:
    train, holdout, synthetic, _ = folders
    with pytest.raises(DatasetError, match="are synthetic"):
        audit(AuditConfig(synthetic=train, train=[synthetic], holdout=[holdout], out=tmp_path))
    with pytest.raises(DatasetError, match="stands apart"):
        audit(AuditConfig(synthetic=synthetic, train=[train], holdout=[train], out=tmp_path))
    with pytest.raises(ValueError, match="level"):
        AuditConfig(synthetic=synthetic, train=[train], holdout=[holdout], out=tmp_path, level=0)
    with pytest.raises(ValueError, match="train must name one folder"):
        AuditConfig(synthetic=synthetic, train=[], holdout=[holdout], out=tmp_path)
    with pytest.raises(DatasetError, match="named twice"):
        audit(AuditConfig(synthetic=synthetic, train=[train, train], holdout=[holdout], out=tmp_path))
    (tmp_path / AUDIT).write_text(json.dumps({"schema": 1}))
    with pytest.raises(ConfigError, match="audit.json"):
        read_audit(tmp_path / AUDIT)


def test_command_tells_offenders_by_its_exit_code(
    folders: Honest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(folders[2]), "--train", str(folders[0]), "--holdout", str(folders[1])]
    words += ["--out", str(tmp_path), "--quiet", "--json"]
    with (
        mock.patch("fundusforge.cli.audit.quick_judge", return_value=None),
        mock.patch("fundusforge.cli.judging.extractor", return_value=None),
    ):
        assert main(words) == 1
        printed = json.loads(capsys.readouterr().out)
        assert sum(finding["verdict"] in OFFENCES for finding in printed["findings"]) == 6
        assert main([*words, "--max-offenders", "6"]) == 0
        assert main([*words, "--max-offenders", "-1"]) == 2
        assert main([*words, "--level", "2"]) == 2


def test_command_infers_membership_with_an_extractor(
    folders: Honest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(folders[2]), "--train", str(folders[0]), "--holdout", str(folders[1])]
    words += ["--out", str(tmp_path), "--quiet", "--extractor", "random", "--cache", str(tmp_path / "cache")]
    with mock.patch("fundusforge.cli.audit.quick_judge", return_value=None):
        assert main([*words, "--device", "cpu"]) == 1
    result = read_audit(tmp_path / AUDIT)
    assert {each.test for each in result.findings[0].likeness} == {"pixels", "pixels_half", "features"}
    assert result.figure("membership_features_auc").value is not None
    assert len(result.offenders()) == 6
    assert "copy of" in capsys.readouterr().out


def test_the_quick_judge_is_the_embedded_segmenter_on_small_pictures() -> None:
    """Loaded once; it reads what the full one reads, from fewer pixels."""
    full = Segmenter.load(device="cpu")
    with mock.patch.object(Segmenter, "load", return_value=full) as load:
        quick = quick_judge(None, device="cpu")
    assert load.call_count == 1 and quick is not None
    assert (quick.name, quick.threshold) == (full.name, full.threshold)
    eye = draw_eye(7, size=READING)
    found = quick.segment(eye.image, eye.field_of_view) >= quick.threshold
    drawn = eye.masks["vessels"] > 0
    assert found.shape == drawn.shape
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.5


def test_wilson_is_that_of_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for hits, n in ((0, 30), (3, 30), (30, 30), (115, 120)):
        expected = proportion.proportion_confint(hits, n, method="wilson")
        assert wilson(hits, n) == pytest.approx(expected, abs=1e-9)
