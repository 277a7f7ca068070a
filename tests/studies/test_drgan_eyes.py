"""Held-out eyes painted again: who is left out, what is asked, resumption, and no leak into the splits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drgan_bench import SIZE, STRANGERS, TINY, painter_of, write_eyes

from fundusforge.annotate.segmenter import patient_digest
from fundusforge.images import read_image
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.sample.painter import Painter
from fundusforge.sample.severity_painter import SeverityPainter
from fundusforge.studies.drgan import eyes as module
from fundusforge.studies.drgan.eyes import EYES, PAINTED, Bench, BenchConfig, bench

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def config(tmp_path: Path) -> BenchConfig:
    return BenchConfig(real=write_eyes(tmp_path / "real", 8), out=tmp_path / "study")


def conditions(found: Bench) -> list[list[str]]:
    return [
        [str(found.painted.records[place].provenance.condition) for place in turn] for turn in found.turns
    ]


def test_every_eye_is_painted_so_often_at_its_grade(config: BenchConfig) -> None:
    found = bench(config, painter_of())
    names = [record.image for record in found.real.records]
    assert conditions(found) == [names, names] and len(found.painted) == 16
    for turn in found.turns:
        for place, grade in zip(turn, found.grades, strict=True):
            record = found.painted.records[place]
            assert record.synthetic and record.provenance.code == (float(grade),)
            assert record.grade == grade
            assert record.image.startswith(f"grade-{grade}/")
    assert Counter(found.grades.tolist()) == {0: 3, 1: 3, 2: 2}
    one, two = (found.painted.image(int(place)) for place in found.turns[:, 0])
    assert one.shape == (SIZE, SIZE, 3) and (one != two).any()
    check_splits((config.real, read_folder(config.real)), (found.painted.folder, found.painted.records))


def test_what_cannot_be_painted_is_left_out_and_said(config: BenchConfig) -> None:
    records = read_folder(config.real)
    records[0] = replace(records[0], grade=None)
    records[1] = replace(records[1], predicted=("grade",))
    records[2] = replace(
        records[2], masks={n: m for n, m in records[2].masks.items() if n != "hard_exudates"}
    )
    records[4] = replace(records[4], split="train")
    write_metadata(config.real, records)
    known = frozenset({patient_digest(records[3].patient)})
    with pytest.raises(DatasetError, match="3 held-out eyes can be painted, and 4"):
        bench(config, painter_of(patients=known))
    records[4] = replace(records[4], split="val")
    write_metadata(config.real, records)
    found = bench(config, painter_of(patients=known))
    assert [record.image for record in found.real.records] == [r.image for r in records[4:]]
    told = " ".join(found.warnings)
    assert "2 of 8 photographs that no person graded" in told
    assert "1 of 8 photographs of patients whom the generator learnt from" in told
    assert "1 of 8 photographs that lack a mask of vessels, disc, hard_exudates" in told
    silent = bench(replace(config, out=config.out.with_name("silent")), painter_of(patients=frozenset()))
    assert "does not say whom it learnt from" in silent.warnings[-1] and len(silent.real) == 5


def test_pictures_of_both_sets_are_of_one_side_and_black_outside(config: BenchConfig) -> None:
    found = bench(replace(config, size=80), painter_of())
    for images in (found.real, found.painted):
        picture, field = images.image(1), images.field_of_view(1)
        assert picture.shape == (80, 80, 3) and not picture[field == 0].any() and picture[field > 0].any()
        mask = images.mask(1, "vessels")
        assert mask.shape == (80, 80) and set(np.unique(mask)) == {0, 255} and not (mask & ~field).any()
    record = found.real.records[0]
    whole = replace(found.real, records=[replace(record, field_of_view=None)])
    assert whole.field_of_view(0).all()


def test_a_study_goes_on_and_refuses_another(config: BenchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module.sample

    def breaks(painter: SeverityPainter, out: Path, wanted: object):
        if out.name == "grade-1":
            raise KeyboardInterrupt
        return first(painter, out, wanted)

    monkeypatch.setattr(module, "sample", breaks)
    with pytest.raises(KeyboardInterrupt):
        bench(config, painter_of())
    assert not (config.out / PAINTED / "metadata.jsonl").exists()
    calls: list[str] = []
    monkeypatch.setattr(module, "sample", lambda p, out, w: calls.append(out.name) or first(p, out, w))
    resumed = bench(config, painter_of())
    assert calls == ["grade-1", "grade-2"], "grade 0 was there"
    assert bench(config, painter_of()).painted == resumed.painted and len(calls) == 2
    whole = bench(replace(config, out=config.out.with_name("whole")), painter_of())
    assert whole.painted.records == resumed.painted.records
    for record in whole.painted.records:
        one, two = (read_image(each.painted.folder / record.image) for each in (whole, resumed))
        np.testing.assert_array_equal(one, two)
    for other, painter in ((config, painter_of(name="tiny-2")), (replace(config, seed=1), painter_of())):
        with pytest.raises(DatasetError, match="holds a study with another (model|seed)"):
            bench(other, painter)
    bench(replace(config, name="again", draws=200), painter_of())


def test_photographs_do_not_lie_among_the_paintings(config: BenchConfig) -> None:
    found = bench(config, painter_of())
    assert {r.synthetic for r in read_folder(found.painted.folder)} == {True}
    assert len(list((config.out / EYES).glob("grade-*/images/*.png"))) == 8
    bytes_of = {path.read_bytes() for path in (config.out / PAINTED).rglob("images/*.png")}
    assert not bytes_of & {path.read_bytes() for path in (config.real / "images").glob("*.png")}


def test_a_rival_without_severity_stands_the_same_test(config: BenchConfig) -> None:
    model = Pix2PixConfig(size=64, widths=(4, 8, 8), masks=TINY.masks, code=False)
    rival = Painter(generator=Generator(model).eval(), name="rival-1", patients=STRANGERS)
    found = bench(config, rival)
    names = [record.image for record in found.real.records]
    assert conditions(found) == [names, names] and found.model == "rival-1"


def test_a_variant_without_lesions_is_told_the_grade_all_the_same(config: BenchConfig) -> None:
    found = bench(config, painter_of(replace(TINY, lesions=False)), masks=TINY.masks)
    codes = [found.painted.records[place].provenance.code for place in found.turns[0]]
    assert codes == [(float(grade),) for grade in found.grades]
    assert set(found.painted.records[0].masks) == {"vessels", "disc"}


def test_imitated_lesions_are_of_the_grade(tmp_path: Path) -> None:
    real = write_eyes(tmp_path / "real", 4, grades=2, size=256)
    records = [
        replace(r, masks={n: m for n, m in r.masks.items() if n != "hard_exudates"})
        for r in read_folder(real)
    ]
    write_metadata(real, records)
    with pytest.raises(DatasetError, match="0 held-out eyes can be painted"):
        bench(BenchConfig(real=real, out=tmp_path / "own"), painter_of())
    found = bench(BenchConfig(real=real, out=tmp_path / "new", lesions="imitated"), painter_of())
    first = found.painted.records[int(found.turns[0, 1])]
    assert first.provenance.condition == f"{records[1].image}+grade-1" and first.grade == 1
    assert first.masks["hard_exudates"].origin == "generated"


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for changes in ({"each": 1}, {"draws": 10}, {"seed": -1}, {"name": ""}):
        with pytest.raises(ValueError, match="paintings of each eye"):
            BenchConfig(real=tmp_path, out=tmp_path, **changes)
