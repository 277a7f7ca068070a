"""What the paper prints (Zhou et al. 2020, Tables II to IV), to stand beside figures of our own.

Its numbers are of EyePACS and a private set, of an Inception network and of graders trained there: compare
the order of the rows and the gaps between them, not the values. The rows of Tub-sGAN (Zhao et al. 2018) and
of the graders Zoom-in-Net (Wang et al. 2017) and AFN (Lin et al. 2018) are printed, not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """A generator in Tables II and IV; None where a table has no such row."""

    title: str
    frechet: float
    """Frechet inception distance, mean over the grades."""
    swd: float
    """Sliced Wasserstein distance times 1000, mean over the grades."""
    accuracy: float | None = None
    """Of a ResNet-50, trained on real photographs, on synthetic ones; per cent."""
    kappa: float | None = None
    """Quadratic weighted, per cent."""


FULL = Row(title="DR-GAN w SCA", frechet=4.24, swd=6.17, accuracy=89.45, kappa=88.11)
ROWS: dict[str, Row] = {
    "full": FULL,
    "no_attention": Row(title="DR-GAN", frechet=4.53, swd=6.43, accuracy=89.32, kappa=87.99),
    "no_lesions": Row(title="w/o Lesion Masks", frechet=8.68, swd=16.12, accuracy=76.31, kappa=72.40),
    "no_agm": Row(title="w/o AGM", frechet=6.03, swd=8.93, accuracy=86.42, kappa=84.32),
    "no_perceptual": Row(title="w/o L_Perceptual", frechet=5.76, swd=7.74, accuracy=87.30, kappa=86.44),
    "no_classification": Row(title="w/o L_Cls in D", frechet=5.54, swd=7.13, accuracy=87.54, kappa=86.09),
}
"""By the names of `ablations.VARIANTS`."""
TUB_SGAN = Row(title="Tub-sGAN (not reproduced)", frechet=9.38, swd=15.62)
REAL_ACCURACY, REAL_KAPPA = 86.24, 83.82
"""Table III: the same ResNet-50 on real photographs, per cent."""
AUPR = {"microaneurysms": 0.5182, "haemorrhages": 0.7089, "hard_exudates": 0.8916, "soft_exudates": 0.7577}
"""Section IV-A: area under precision-recall of the paper's lesion annotators on IDRiD's real photographs."""
