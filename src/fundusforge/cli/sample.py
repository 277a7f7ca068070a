"""`fundusforge sample`: a trained generator to a dataset folder of synthetic, labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, emit, only, progress, say


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make synthetic fundus photographs: painted on structure masks, or drawn with their masks from vectors.

    Writes a dataset folder: each image with the masks that made it, its field of view and where it came
    from, and marked as synthetic in the metadata and inside the file. Without MODEL the embedded generator
    is used, without --masks eyes drawn by the phantom: neither data nor network is needed, and the images
    are of no patient. The same seed gives the same images, byte for byte, however many are made.

    A progressive GAN (`pggan`) draws images together with their masks; it needs no --masks.

    Images painted on the masks of a patient's photograph are marked `structure_from_patient`: a vessel tree
    identifies its owner like a fingerprint, so do not share them.

    Examples:
      fundusforge sample -n 16 --seed 7 --out synthetic
      fundusforge sample runs/painter -n 100 --masks data/chase --split val --out painted
      fundusforge sample -n 8 --size 1024 --camera chase --out large
    """

    model: Annotated[tuple[Path, ...], Positional, arg(metavar="[MODEL]")] = ()
    """Run folder or safetensors file of a pix2pix or pggan model; the embedded generator if left out."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write; must not hold a dataset yet."""
    count: Annotated[int, arg(name="n", aliases=("-n",))] = 16
    """Number of images."""
    seed: int = 0
    """Seed of the sequence of images."""
    masks: Annotated[str, arg(metavar="FOLDER|phantom")] = "phantom"
    """Structure to paint on: `phantom`, or a dataset folder with the masks that the generator needs."""
    split: Literal["train", "val", "test"] | None = None
    """Take only masks of this split of the folder."""
    size: int | None = None
    """Side of the images in pixels, 256 to 1024 and a multiple of 64; the size of the training images if left
    out."""
    camera: str | None = None
    """Camera whose colours to imitate (a wrong name lists the known ones); drawn per image if left out."""
    jobs: int = 1
    """Processes that draw or read structure."""
    device: str = "auto"
    """Where to paint: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Sample."""
        from fundusforge.sample.painter import Painter
        from fundusforge.sample.stage import SampleConfig, sample
        from fundusforge.training.checkpoint import read_metadata

        path = only(self.model, "MODEL")
        if path is not None and read_metadata(path)["kind"] == "pggan":
            return self._draw(path)
        painter = Painter.load(path, device=self.device)
        config = SampleConfig(
            count=self.count, seed=self.seed, masks=self.masks, split=self.split, size=self.size,
            camera=self.camera, jobs=self.jobs,
        )  # fmt: skip
        made = list(
            progress(sample(painter, self.out, config), "painting", total=self.count, quiet=self.quiet)
        )
        from_patient = sum(record.structure_from_patient for record in made)
        if from_patient:
            say(
                f"warning: {from_patient} of {len(made)} images have the vessels of a patient, which "
                "identify the patient: do not share them. For images that may be shared, leave --masks out."
            )
        result = {
            "out": str(self.out), "images": len(made), "model": painter.name, "seed": self.seed,
            "structure_from_patient": from_patient, "terms": list(painter.terms),
        }  # fmt: skip
        emit(result, f"{len(made)} synthetic images in {self.out}", as_json=self.json)
        return DONE

    def _draw(self, path: Path) -> int:
        """Sample a generator that draws from vectors."""
        from fundusforge.sample.drawing import draw
        from fundusforge.sample.latents import Drawer

        given = {"--masks": self.masks != "phantom", "--split": self.split, "--size": self.size,
                 "--camera": self.camera, "--jobs": self.jobs != 1}  # fmt: skip
        if wrong := [flag for flag, is_given in given.items() if is_given]:
            raise UsageError(f"{path} draws images and masks from vectors alone: it takes no {wrong[0]}")
        drawer = Drawer.load(path, device=self.device)
        drawn = draw(drawer, self.out, count=self.count, seed=self.seed)
        made = list(progress(drawn, "drawing", total=self.count, quiet=self.quiet))
        result = {
            "out": str(self.out), "images": len(made), "model": drawer.name, "seed": self.seed,
            "structure_from_patient": 0, "terms": list(drawer.terms),
        }  # fmt: skip
        emit(result, f"{len(made)} synthetic images of {drawer.size} px in {self.out}", as_json=self.json)
        return DONE
