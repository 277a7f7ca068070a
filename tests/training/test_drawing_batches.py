"""Batches that generators learn from: draws of each image, smaller batches later on, contrasts, mirrors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from fundusforge.images import encode_contrast, resize, write_image
from fundusforge.models.recipe import CONTRAST_UNIT, View
from fundusforge.records import Contrast, DatasetError, read_folder, write_metadata
from fundusforge.training.batches import Batches


@pytest.fixture
def eyes(drawn_folder: Callable[..., Path]) -> Path:
    return drawn_folder(6, size=32)


def batches(folder: Path, view: View, *, batch: int = 8, **options: int) -> Batches:
    return Batches(folder, read_folder(folder), view, batch=batch, seed=0, **options)


def test_draws_belong_to_the_image_and_not_to_the_process(eyes: Path) -> None:
    view = View(size=16, draws=5)
    whole = batches(eyes, view).load(3)["draws"]
    shares = [batches(eyes, view, rank=rank, world=2).load(3)["draws"] for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(shares))
    assert whole.shape == (8, 5)
    many = torch.cat([batch["draws"] for batch in islice(batches(eyes, view), 200)])
    assert abs(many.mean().item()) < 0.05 and many.std().item() == pytest.approx(1, abs=0.05)
    assert len({tuple(row) for row in many.tolist()}) == len(many)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_halve_at_the_given_image_and_lose_none(eyes: Path, workers: int) -> None:
    view = View(size=16, draws=1, halved_from=20)
    plain = replace(view, halved_from=None)
    feed = batches(eyes, view, workers=workers)
    found = list(islice(feed, 6))
    assert [len(batch["image"]) for batch in found] == [8, 8, 8, 4, 4, 4], "from the first batch after it"
    whole = torch.cat([batch["draws"] for batch in islice(batches(eyes, plain), 5)])
    assert torch.equal(torch.cat([batch["draws"] for batch in found]), whole[:36])
    later = next(feed.starting_at(28))
    assert torch.equal(later["draws"], whole[28:32])
    with pytest.raises(ValueError, match="not the first of a batch"):
        next(feed.starting_at(18))
    with pytest.raises(ValueError, match="that can be halved"):
        batches(eyes, view, batch=6, world=2)


def test_contrasts_come_in_their_unit_and_unclipped(eyes: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, (2, 6, 32, 32)).astype(np.float32)  # beyond 4 deviations now and then
    records = []
    for place, record in enumerate(read_folder(eyes)):
        found = {}
        for name, layer in zip(("t1", "flair"), values[:, place], strict=True):
            pixels, scale, offset = encode_contrast(layer)
            found[name] = Contrast(path=f"{name}-{place}.png", scale=scale, offset=offset)
            write_image(eyes / found[name].path, pixels)
        records.append(replace(record, contrasts=found))
    write_metadata(eyes, records)
    batch = batches(eyes, View(contrasts=("flair", "t1"), masks=("disc",)), batch=6).load(0)
    wanted = torch.from_numpy(values[::-1].copy())[:, batch["index"]].transpose(0, 1) / CONTRAST_UNIT
    assert torch.allclose(batch["image"], wanted, atol=1e-3) and wanted.abs().max() > 1.5
    half = batches(eyes, View(contrasts=("t1",), size=16), batch=6).load(0)
    expected = resize(values[0, int(half["index"][0])], 16) / CONTRAST_UNIT
    assert np.allclose(half["image"][0, 0].numpy(), expected, atol=1e-3)
    write_metadata(eyes, [replace(record, contrasts={}) for record in records])
    with pytest.raises(DatasetError, match="none of 6 records has .* the contrasts t1"):
        batches(eyes, View(contrasts=("t1",)))


def test_mirrors_change_sides_and_nothing_else(eyes: Path) -> None:
    plain = batches(eyes, View(masks=("vessels",)), batch=12).load(0)
    mirrored = batches(eyes, View(masks=("vessels",), augment="mirror"), batch=12).load(0)
    flips = []
    for name in ("image", "masks", "field_of_view"):
        same = (plain[name] == mirrored[name]).flatten(1).all(1)
        turned = (plain[name].flip(-1) == mirrored[name]).flatten(1).all(1)
        assert (same | turned).all()
        flips.append(turned & ~same)
    assert 2 < flips[0].sum() < 10


def test_coverage_is_the_share_of_a_pixel_and_not_an_outline(eyes: Path) -> None:
    outline, share = (
        batches(eyes, View(masks=("vessels",), size=8, coverage=covered)).load(0)["masks"]
        for covered in (False, True)
    )
    assert set(outline.unique().tolist()) <= {0.0, 1.0}
    whole = batches(eyes, View(masks=("vessels",), size=32)).load(0)["masks"]
    expected = torch.nn.functional.avg_pool2d(whole, 4)
    assert (share - expected).abs().max() < 0.01
    assert outline.mean() > 1.3 * share.mean(), "outlines keep lines that cover little"


def test_trees_are_warped_smoothly_and_stay_in_their_range(eyes: Path) -> None:
    plain, warped = (
        batches(eyes, View(masks=("vessels",), size=32, coverage=True, augment=augment)).load(0)["masks"]
        for augment in ("none", "trees")
    )
    assert warped.min() >= 0 and warped.max() <= 1
    between = (warped > 0.05) & (warped < 0.95)
    assert between.any(), "interpolated, not picked"
    assert float(warped.mean()) == pytest.approx(float(plain.mean()), rel=0.35)
    assert not torch.equal(plain, warped)
