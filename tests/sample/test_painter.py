"""The painter: masks of any shape in, one photograph out, which depends on weights, masks and seed alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.config import to_json
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.records import DatasetError
from fundusforge.sample.painter import Painter
from fundusforge.training.checkpoint import CheckpointError, annotate_metadata, save_model
from fundusforge.training.loop import Clock

Drawing = Callable[..., dict[str, np.ndarray]]
TINY = Pix2PixConfig(size=64, widths=(4, 8, 8), cameras=("one", "two"))


def tiny_generator(config: Pix2PixConfig = TINY) -> Generator:
    """Random weights, with codes of two cameras and noise that shows."""
    torch.manual_seed(1)
    generator = Generator(config).eval()
    codes = torch.rand(20, 10) + torch.arange(2).repeat(10)[:, None]
    generator.fit_codes(codes, ["one", "two"] * 10)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.5)
    return generator


def paint(painter: Painter, drawing: dict[str, np.ndarray], **changes: object) -> np.ndarray:
    masks = {name: drawing[name] for name in ("vessels", "disc")}
    stack, inside = painter.stack(masks, drawing["field_of_view"], size=64)
    return painter.paint(stack, inside, **({"seed": 3, "code": None} | changes))


def test_the_photograph_is_black_outside_and_repeatable(fundus: Drawing) -> None:
    painter, drawing = Painter(generator=tiny_generator()), fundus(64, seed=1)
    image = paint(painter, drawing)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert not image[drawing["field_of_view"] == 0].any() and image[drawing["field_of_view"] > 0].any()
    np.testing.assert_array_equal(image, paint(painter, drawing))


def test_noise_and_code_change_the_photograph(fundus: Drawing) -> None:
    painter, drawing = Painter(generator=tiny_generator()), fundus(64, seed=1)
    image = paint(painter, drawing)
    assert (image != paint(painter, drawing, seed=4)).any()
    code = painter.draw_code(torch.Generator().manual_seed(0), "two")
    assert code is not None and code.shape == (10,)
    assert (image != paint(painter, drawing, code=code)).any()


def test_oblong_masks_are_padded_and_kept_inside(fundus: Drawing) -> None:
    painter, drawing = Painter(generator=tiny_generator()), fundus(128, seed=2)
    cut = {name: pixels[20:100] for name, pixels in drawing.items()}
    cut["vessels"] = np.full((80, 128), 255, np.uint8)
    stack, inside = painter.stack(cut, cut["field_of_view"], size=64)
    assert stack.shape == (2, 64, 64) and set(np.unique(stack)) <= {0, 255}
    assert not inside[:8].any() and inside[32].any()
    np.testing.assert_array_equal(stack[0], inside)


def test_unknown_cameras_and_sizes_are_refused() -> None:
    painter = Painter(generator=tiny_generator())
    with pytest.raises(DatasetError, match="one.*two"):
        painter.draw_code(torch.Generator(), "three")
    with pytest.raises(DatasetError, match="multiples of 4"):
        painter.check_size(66)
    painter.check_size(128)


def test_a_generator_comes_back_from_its_file(tmp_path: Path, fundus: Drawing) -> None:
    generator, path = tiny_generator(), tmp_path / "painter.safetensors"
    save_model(
        path, nn.ModuleDict({"generator": generator}), config_json=to_json(TINY), clock=Clock(images=4)
    )
    annotate_metadata(path, terms=["drawn: CC0"], patients=["00"])
    loaded = Painter.load(path)
    assert loaded.terms == ("drawn: CC0",) and loaded.patients == {"00"}
    assert loaded.name.startswith("painter-")
    drawing = fundus(64, seed=1)
    np.testing.assert_array_equal(paint(loaded, drawing), paint(Painter(generator=tiny_generator()), drawing))


def test_other_families_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_model(path, nn.ModuleDict({"net": nn.Linear(1, 1)}), config_json='{"kind": "unet"}', clock=Clock())
    with pytest.raises(CheckpointError, match="unet"):
        Painter.load(path)
