"""`fundusforge series`: one eye at several grades, lesions nested, everything else the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.cli import main
from fundusforge.cli.command import UsageError
from fundusforge.cli.series import grades_of, summary, table
from fundusforge.config import to_json
from fundusforge.images import read_image, read_mask
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.records import DatasetError, read_folder
from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_statistics import read_statistics
from fundusforge.sample.lesions import findings_of
from fundusforge.sample.series import SHEET, TABLE, SeriesConfig, layouts_of
from fundusforge.severity import LESIONS, grade
from fundusforge.sources.phantom import draw_eye
from fundusforge.training.checkpoint import save_model
from fundusforge.training.loop import Clock

pytestmark = pytest.mark.usefixtures("one_thread")
MASKS = ("vessels", "disc", "microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = Pix2PixConfig(size=256, widths=(4, 8, 8), masks=MASKS)
    generator = Generator(config)
    generator.fit_codes(torch.rand(20, 10), [])
    save_model(
        tmp_path / "painter.safetensors", nn.ModuleDict({"generator": generator}),
        config_json=to_json(config), clock=Clock(images=8),
    )  # fmt: skip
    return tmp_path / "painter.safetensors"


def test_layouts_are_nested_and_each_shows_its_grade() -> None:
    eye = draw_eye(5, size=256, render=False)
    frame = Frame.of_masks(eye.masks, eye.field_of_view, eye=eye.eye)
    layouts = layouts_of(frame, range(5), read_statistics(), seed=2)
    assert [layout.grade for layout in layouts] == [0, 1, 2, 3, 4]
    assert [grade(findings_of(layout.masks, frame)) for layout in layouts[:4]] == [0, 1, 2, 3]
    for lower, higher in zip(layouts[:-1], layouts[1:], strict=True):
        assert set(lower.spots) <= set(higher.spots) and len(lower.spots) <= len(higher.spots)
        for name, mask in lower.masks.items():
            assert not (mask & ~higher.masks[name]).any(), name
    alone = layouts_of(frame, (0, 2), read_statistics(), seed=2)
    assert [layout.grade for layout in alone] == [0, 2]


def test_a_series_is_a_dataset_folder_of_the_same_eyes(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "series"
    words = ["series", str(model), "--grades", "0", "2-3", "-n", "2", "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    records = read_folder(out)
    assert [(record.provenance.index, record.grade) for record in records] == [
        (eye, asked) for eye in (0, 1) for asked in (0, 2, 3)
    ]
    for one, three in zip(records[::3], records[2::3], strict=True):
        assert one.patient == three.patient and one.eye == three.eye and one.synthetic
        assert one.provenance.code == three.provenance.code
        same = [(read_mask(out / r.masks["vessels"].path)) for r in (one, three)]
        assert (same[0] == same[1]).all()
        empty, full = (read_mask(out / r.masks["haemorrhages"].path) for r in (one, three))
        assert not empty.any() and full.any()
        assert one.masks["haemorrhages"].origin == "generated" and one.masks["vessels"].origin == "phantom"
        pictures = [read_image(out / r.image).astype(int) for r in (one, three)]
        assert np.abs(pictures[0] - pictures[1]).max() > 0
    assert records[0].patient != records[3].patient
    asked = json.loads((out / TABLE).read_text())
    assert [row["image"] for row in asked] == [record.image for record in records]
    assert asked[0]["counts"] == dict.fromkeys(LESIONS, 0) and asked[2]["counts"]["haemorrhages"] >= 84
    assert set(asked[0]["shown"]) == set(LESIONS)
    assert read_image(out / SHEET).shape == (2 * 256 + 4, 3 * 256 + 8, 3)
    assert main(words) == 2  # a dataset is never written over


def test_a_generator_without_lesions_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    config = Pix2PixConfig(size=64, widths=(4, 8, 8))
    generator = Generator(config)
    generator.fit_codes(torch.rand(20, 10), [])
    nets = nn.ModuleDict({"generator": generator})
    save_model(tmp_path / "plain.safetensors", nets, config_json=to_json(config), clock=Clock(images=8))
    words = ["series", str(tmp_path / "plain.safetensors"), "--grades", "0", "1", "-n", "1"]
    assert main([*words, "--out", str(tmp_path / "series"), "--device", "cpu", "--json"]) == 0
    told = capsys.readouterr()
    assert "takes no masks of lesions: all grades look alike" in told.err
    assert json.loads(told.out)["shown"] == []


def test_grades_are_read_and_refused() -> None:
    assert grades_of(("0-4",)) == (0, 1, 2, 3, 4)
    assert grades_of(("3", "0", "1-2")) == (0, 1, 2, 3)
    for wrong in ("5", "a", "1-", "0-9"):
        with pytest.raises(UsageError, match="--grades"):
            grades_of((wrong,))
    with pytest.raises(DatasetError, match="ascend"):
        SeriesConfig(grades=(2, 1))
    with pytest.raises(DatasetError, match="number of eyes"):
        SeriesConfig(eyes=0)


def test_recounts_stand_beside_what_was_asked_for() -> None:
    rows = [
        {"grade": g, "asked": {"haemorrhages": a}, "found": {"haemorrhages": f}, "shown": ["haemorrhages"]}
        for g, a, f in ((2, 4, 2), (2, 6, 4), (3, 90, 60))
    ]
    cells = summary(rows)
    assert [(cell["grade"], cell["asked"], cell["found"], cell["images"]) for cell in cells] == [
        (2, 5.0, 3.0, 2), (3, 90.0, 60.0, 1),
    ]  # fmt: skip
    assert "haemorrhages" in table(cells)
    cells[0]["shown"] = False
    assert "no mask of it" in table(cells)
