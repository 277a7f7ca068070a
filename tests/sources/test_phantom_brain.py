"""The phantom brain: labels, contrasts that read as a radiologist expects, determinism."""

import numpy as np
import pytest

from fundusforge.records import CONTRASTS, MASKS
from fundusforge.sources.phantom import Brain, draw_brain
from fundusforge.sources.phantom.brain import BrainConfig


@pytest.fixture(scope="module", params=range(4))
def brain(request) -> Brain:
    return draw_brain(request.param, size=128)


def mean(brain: Brain, contrast: str, label: str) -> float:
    return float(brain.contrasts[contrast][brain.labels[label] > 0].mean())


def test_contrasts_and_labels_have_the_names_and_types_of_a_record(brain):
    assert tuple(brain.contrasts) == CONTRASTS
    assert set(brain.labels) <= set(MASKS)
    for contrast in brain.contrasts.values():
        assert contrast.shape == (128, 128)
        assert contrast.dtype == np.float32
        assert (contrast >= 0).all()
        assert not contrast[brain.brain == 0].any(), "skull and air are stripped"
    for label in brain.labels.values():
        assert set(np.unique(label)) == {0, 255}


def test_labels_are_disjoint_and_inside_the_brain(brain):
    stacked = sum((label > 0).astype(int) for label in brain.labels.values())
    assert stacked.max() == 1
    assert not (stacked.astype(bool) & (brain.brain == 0)).any()


def test_the_rim_encloses_the_necrosis_and_oedema_lies_outside(brain):
    centre = np.argwhere(brain.labels["necrosis"] > 0).mean(0)

    def reach(label: str) -> float:
        return float(np.linalg.norm(np.argwhere(brain.labels[label] > 0) - centre, axis=1).mean())

    assert reach("necrosis") < reach("enhancing") < reach("oedema")


def test_tumour_reads_as_it_should_on_every_contrast(brain):
    assert mean(brain, "t1c", "enhancing") > 1.5 * mean(brain, "t1", "enhancing")
    assert mean(brain, "t1c", "enhancing") > 1.5 * mean(brain, "t1c", "necrosis")
    healthy = (brain.brain > 0) & (sum(label.astype(int) for label in brain.labels.values()) == 0)
    for contrast in ("t2", "flair"):
        assert mean(brain, contrast, "oedema") > 1.3 * np.median(brain.contrasts[contrast][healthy])
    assert mean(brain, "t1", "oedema") < np.median(brain.contrasts["t1"][healthy])


def test_fluid_is_bright_on_t2_and_dark_on_flair(brain):
    inner = brain.contrasts["t2"] > np.percentile(brain.contrasts["t2"][brain.brain > 0], 98)
    tumour = sum(label.astype(int) for label in brain.labels.values()) > 0
    fluid = inner & ~tumour & (brain.brain > 0)
    assert fluid.sum() > 20
    ordinary = np.median(brain.contrasts["flair"][brain.brain > 0])
    assert np.median(brain.contrasts["flair"][fluid]) < 0.6 * ordinary


def test_same_seed_same_bytes_and_another_seed_another_brain():
    first, again, other = draw_brain(1, size=64), draw_brain(1, size=64), draw_brain(2, size=64)
    assert all(first.contrasts[name].tobytes() == again.contrasts[name].tobytes() for name in CONTRASTS)
    assert first.contrasts["t1"].tobytes() != other.contrasts["t1"].tobytes()


def test_a_healthy_slice_has_empty_labels():
    healthy = draw_brain(0, size=64, config=BrainConfig(tumour_share=0.0))
    assert not any(label.any() for label in healthy.labels.values())
    assert healthy.contrasts["t1"].any()


def test_wrong_size_is_refused():
    with pytest.raises(ValueError, match="size must be at least 32"):
        draw_brain(0, size=8)
