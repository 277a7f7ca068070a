"""What a model must provide to be trained: networks, phases, and a view of the data.

A `Recipe` is the whole contract between a model family (`fundusforge.models`) and the one loop
(`fundusforge.training.loop`). The family owns its networks, optimizers and losses; the loop owns the clock,
which is counted in images, the averaging of weights, checkpoints and processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from fundusforge.records import CONTRASTS, MASKS

CONTRAST_UNIT = 4.0
"""Standard deviations of a magnetic-resonance contrast that are 1 in a batch, so that most values lie within
[-1, 1]; none is clipped."""


@dataclass(frozen=True)
class Phase:
    """One optimizer step of one or more networks, taken every `every` batches.

    Two phases may share an optimizer (a lazily applied penalty, for example); its state is then stored once,
    under the name of the first of them.
    """

    name: str
    nets: tuple[str, ...]
    optimizer: Optimizer
    every: int = 1


@dataclass(frozen=True)
class View:
    """How a model wants to see the records of a dataset folder; `training.batches` turns it into tensors.

    A batch is a dict of tensors: `image` (N, 3, H, W) in [-1, 1], or as many contrasts in units of
    `CONTRAST_UNIT` where `contrasts` is set; `masks` (N, C, H, W) in [0, 1] with C names
    in the order of `masks`; `masks_known` (N, C), 0 where a record has no such mask; `field_of_view` (N, 1,
    H, W) in {0, 1}; `code` (N, K) float32 where `code` is set; `grade` (N,) int64, -1 where unknown; `labels`
    (N, L) float32 where `labels` is set, 1 with a finding, 0 without it, -1 where nobody said; `draws` (N, D)
    standard normal where `draws` is set; `index` (N,) the place of the record in the folder.
    """

    masks: tuple[str, ...] = ()
    """Mask channels, in order."""
    contrasts: tuple[str, ...] = ()
    """Magnetic-resonance contrasts to read in place of the photograph; records without them are left out."""
    size: int | None = None
    """Side in pixels to which whole images are resized (square, padded); None keeps each image's own size."""
    crop: int | None = None
    """Side in pixels of random square crops; None takes whole images."""
    focus: float = 0.0
    """Share of the crops that are centred near a pixel of one of the masks, each mask that an image has being
    as likely: for lesions that cover a thousandth of the retina."""
    augment: Literal["none", "mirror", "segmentation", "translation", "classification", "trees"] = "none"
    """`mirror`: left and right exchanged, every other time. `segmentation`: flips, rotation, scale, elastic
    warp, colour, gamma, blur, noise. `translation`: geometry shared by image and masks, colours untouched.
    `classification`: mirroring, shift, zoom and rotation, each small (Kim et al. 2022). `trees`: these, and a
    smooth warp of every sample, by which another tree comes of it: up stays up, and what is connected stays
    connected."""
    vertical: bool = False
    """Also mirror upside down in `classification` augmentation."""
    tint: bool = False
    """Also change colours and gamma mildly in `classification` augmentation."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random zoom of `segmentation` augmentation."""
    needs: tuple[str, ...] = ()
    """Masks without which a record is left out."""
    grey: bool = False
    """Replace colours by grey with gamma and CLAHE (see `fundusforge.images.grey_clahe`), three equal
    channels."""
    code: bool = False
    """Also yield the camera-and-colour code of each image (see `fundusforge.images.colour_code`)."""
    labels: tuple[str, ...] = ()
    """Findings of the whole image, in order; see `fundusforge.records.finding_label` for their names."""
    balance: Literal["images", "cameras", "grades", "labels"] = "images"
    """What is drawn equally often: images, cameras, grades, or of each finding those with and those without
    it. Images of which the grade, or every finding, is unknown are then never drawn."""
    draws: int = 0
    """Random numbers for each image of the sequence, a function of the seed and the image's number alone, in
    however many processes."""
    coverage: bool = False
    """Give resized masks as the share of each pixel that they cover. Outlines of 0 and 1 keep thin vessels
    connected, but in a small picture they outweigh all else in it: for networks that draw them."""
    halved_from: int | None = None
    """Image of the clock from which batches are half as large."""

    def batch_at(self, image: int, batch: int) -> int:
        """Return the images of the batch that begins at this image of the clock; `batch` at the start."""
        return batch // 2 if self.halved_from is not None and image >= self.halved_from else batch


def check_masks(masks: tuple[str, ...]) -> None:
    """Refuse mask names that no record can have, and names given twice.

    Raises:
        ValueError: Such a name, or none at all.
    """
    if not masks or len(set(masks)) < len(masks):
        raise ValueError(f"masks must be given, each once, not {masks}")
    if unknown := sorted(set(masks) - set(MASKS)):
        raise ValueError(f"unknown mask {unknown[0]!r}; known are {', '.join(MASKS)}")


def check_contrasts(contrasts: tuple[str, ...]) -> None:
    """Refuse names of contrasts that no record can have, and names given twice.

    Raises:
        ValueError: Such a name.
    """
    if len(set(contrasts)) < len(contrasts) or set(contrasts) - set(CONTRASTS):
        raise ValueError(f"contrasts must be of {', '.join(CONTRASTS)}, each once, not {contrasts}")


class Recipe(Protocol):
    """A model family, ready to train. See `fundusforge.training.loop.train`."""

    nets: nn.ModuleDict
    """Every network with its buffers: the whole state that a checkpoint keeps beside the optimizers'."""
    phases: tuple[Phase, ...]
    """Steps taken for each batch, in order."""
    ema: tuple[str, ...]
    """Names of the networks of which an exponential moving average is kept; these become the released
    model."""
    view: View
    """What the model reads from a dataset folder."""

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Scalar losses of one phase, summed by the loop; `images` is the clock (for schedules)."""
        ...

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] for the sample grid, drawn with `nets` (averages where kept)."""
        ...
