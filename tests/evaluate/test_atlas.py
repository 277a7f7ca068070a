"""The failure atlas: the odd image stands at its head, and says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusforge.evaluate.atlas import atlas
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Atlas
from fundusforge.images import read_image, read_mask, write_image
from fundusforge.records import read_folder, write_metadata

Make = Callable[..., Path]


class Greenness:
    """Mean colours as features."""

    name, resize, key, dimensions = "mean colours", "none", "mean colours", 3

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([image.reshape(-1, 3).mean(0) for image in images]).astype(np.float32)


def evidence(synthetic: Path, real: Path, *, extractor: Greenness | None = None) -> Evidence:
    sets = [ImageSet(folder=folder, records=read_folder(folder)) for folder in (synthetic, real)]
    return Evidence(
        synthetic=sets[0], real=sets[1], judge=None, size=64, margin=0.2, reference=None, seed=0, draws=100,
        repeats=5, extractor=extractor,
    )  # fmt: skip


def test_a_broken_rule_is_told_in_words(drawn_folder: Make) -> None:
    synthetic, real = drawn_folder(8, seed=10), drawn_folder(8, seed=30)
    covered = read_folder(synthetic)[5]
    path = synthetic / covered.masks["vessels"].path
    write_image(path, np.full_like(read_mask(path), 255))
    found = atlas(evidence(synthetic, real), count=4)
    told = {each.image: each for each in found.least}
    assert any("too much vessel" in words for words in told[covered.image].violations)
    assert told[covered.image].score is None
    broken = [len(each.violations) for each in (*found.least, *found.most[::-1])]
    assert broken == sorted(broken, reverse=True)
    assert len(found.least) == len(found.most) == 4
    assert not {each.image for each in found.least} & {each.image for each in found.most}


def test_without_rules_the_probe_ranks(drawn_folder: Make) -> None:
    synthetic, real = drawn_folder(24, seed=50), drawn_folder(24, seed=90)
    for folder in (synthetic, real):
        write_metadata(folder, [replace(record, masks={}) for record in read_folder(folder)])
    for place, record in enumerate(read_folder(synthetic)):
        greener = read_image(synthetic / record.image).astype(int) + [0, 100 if place == 4 else 20, 0]
        write_image(synthetic / record.image, np.clip(greener, 0, 255).astype(np.uint8))
    odd = read_folder(synthetic)[4]
    found = atlas(evidence(synthetic, real, extractor=Greenness()), count=4)
    assert found.least[0].image == odd.image and found.least[0].violations == ()
    scores = [each.score for each in (*found.least, *found.most[::-1])]
    assert None not in scores and scores == sorted(scores)


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_or_none_asked_for(drawn_folder: Make, count: int) -> None:
    found = atlas(evidence(drawn_folder(4, seed=1), drawn_folder(4, seed=9)), count=count)
    assert len(found.least) == len(found.most) == count


def test_nothing_known_no_atlas(drawn_folder: Make) -> None:
    """Without vessels and without an extractor there is nothing to rank by."""
    folder = drawn_folder(4, seed=2)
    assert atlas(evidence(folder, folder)) != Atlas()
    write_metadata(folder, [replace(record, masks={}) for record in read_folder(folder)])
    assert atlas(evidence(folder, folder)) == Atlas()
