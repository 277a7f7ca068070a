"""`fundusforge sample`: a trained generator to a dataset folder of synthetic, labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, emit, only, progress, say

if TYPE_CHECKING:
    from fundusforge.sample.latents import Drawer


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make synthetic fundus photographs: painted on structure masks, or drawn with their masks from vectors.

    Writes a dataset folder: each image with the masks that made it, its field of view and where it came
    from, and marked as synthetic in the metadata and inside the file. Without MODEL the embedded generator
    is used, without --masks eyes drawn by the phantom: neither data nor network is needed, and the images
    are of no patient. The same seed gives the same images, byte for byte, however many are made.

    A GAN that draws from vectors (`pggan`, `stylegan`) draws images together with their masks; it needs no
    --masks. A `vae` draws masks alone, which a painter takes as its --masks.

    Images painted on the masks of a patient's photograph are marked `structure_from_patient`: a vessel tree
    identifies its owner like a fingerprint, so do not share them.

    Examples:
      fundusforge sample -n 16 --seed 7 --out synthetic
      fundusforge sample runs/painter -n 100 --masks data/chase --split val --out painted
      fundusforge sample -n 8 --size 1024 --camera chase --out large
      fundusforge sample --model flow -n 8 --lesions imitated --grade 3 --out graded
      fundusforge sample runs/severity -n 8 --severity 2.5 --out between
      fundusforge sample runs/severity -n 10000 --lesions imitated --grade 3 --out severe
    """

    model: Annotated[tuple[Path, ...], Positional, arg(metavar="[MODEL]")] = ()
    """Run folder or safetensors file of a pix2pix, drgan, flow, pggan, stylegan or vae model; an embedded one
    if left out."""
    embedded: Annotated[str, arg(name="model", metavar="NAME")] = "pix2pix"
    """Embedded generator to use where MODEL is left out, by name or family: pix2pix paints structure, flow
    also lesions of a wanted severity (`fundusforge models` lists them)."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write; must not hold a dataset yet."""
    count: Annotated[int, arg(name="n", aliases=("-n",))] = 16
    """Number of images."""
    seed: int = 0
    """Seed of the sequence of images."""
    masks: Annotated[str, arg(metavar="phantom|FOLDER|RUN")] = "phantom"
    """Structure to paint on: `phantom`, a dataset folder with the masks that the generator needs, or a model
    that draws them (vae, pggan, stylegan)."""
    split: Literal["train", "val", "test"] | None = None
    """Take only masks of this split of the folder; what a model draws is put into it."""
    lesions: Literal["own", "imitated"] = "own"
    """Lesions to paint on: those of the structure, or new ones, laid out on its vessels as real ones are, for
    --grade or for each grade in turn."""
    size: int | None = None
    """Side of the images in pixels, 256 to 1024 and a multiple of 64; the size of the training images if left
    out."""
    camera: str | None = None
    """Camera whose colours to imitate (a wrong name lists the known ones); drawn per image if left out."""
    truncation: float = 1.0
    """stylegan: below 1 nearer to the mean picture, better and more alike; 0.7 is usual."""
    grade: int | None = None
    """stylegan, drgan, flow: grade to draw, 0 to 4, if the model was trained with grades; also that of
    imitated lesions."""
    severity: float | None = None
    """drgan, flow: severity to paint, 0 to 4, between grades too; if neither it nor --grade is given, that of
    the structure, or what the masks speak for."""
    guidance: float = 1.0
    """flow: above 1 a severity counts for more than was learnt, and its colours do too; twice as slow."""
    finding: tuple[str, ...] = ()
    """stylegan: findings to draw, if the model was trained with them."""
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
        from fundusforge import weights
        from fundusforge.sample.latents import DRAWING
        from fundusforge.sample.painter import Painter
        from fundusforge.sample.severity_painter import guided, load_painter
        from fundusforge.sample.stage import SampleConfig, sample
        from fundusforge.training.checkpoint import read_metadata

        path = only(self.model, "MODEL") or weights.named(self.embedded)
        if read_metadata(path)["kind"] in DRAWING:
            return self._draw(path)
        if self.truncation != 1 or self.finding:
            raise UsageError("--truncation and --finding need a stylegan MODEL")
        painter = guided(load_painter(path, device=self.device), self.guidance)
        severity = self._severity(taken=not isinstance(painter, Painter))
        config = SampleConfig(
            count=self.count, seed=self.seed, masks=self.masks, split=self.split, size=self.size,
            camera=self.camera, severity=severity, lesions=self.lesions,
            grade=self.grade if self.lesions == "imitated" else None, jobs=self.jobs,
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

    def _severity(self, *, taken: bool) -> float | None:
        """Severity that is asked for, by either name."""
        asked = [value for value in (self.grade, self.severity) if value is not None]
        if len(asked) == 2:
            raise UsageError("--grade and --severity both name a severity; give one")
        if self.lesions == "imitated" and self.grade is not None and not taken:
            return None  # the masks show it
        if asked and not taken:
            name = "--grade" if self.grade is not None else "--severity"
            raise UsageError(f"{name} needs a drgan, flow or stylegan MODEL")
        return float(asked[0]) if asked else None

    def _draw(self, path: Path) -> int:
        """Sample a generator that draws from vectors."""
        from fundusforge.sample.drawing import draw
        from fundusforge.sample.latents import Drawer

        given = {"--masks": self.masks != "phantom", "--split": self.split, "--size": self.size,
                 "--camera": self.camera, "--jobs": self.jobs != 1,
                 "--severity": self.severity is not None, "--lesions": self.lesions != "own",
                 "--guidance": self.guidance != 1}  # fmt: skip
        if wrong := [flag for flag, is_given in given.items() if is_given]:
            raise UsageError(f"{path} draws images and masks from vectors alone: it takes no {wrong[0]}")
        drawer = self._steered(Drawer.load(path, device=self.device))
        drawn = draw(drawer, self.out, count=self.count, seed=self.seed)
        made = list(progress(drawn, "drawing", total=self.count, quiet=self.quiet))
        result = {
            "out": str(self.out), "images": len(made), "model": drawer.name, "seed": self.seed,
            "structure_from_patient": 0, "terms": list(drawer.terms),
        }  # fmt: skip
        emit(result, f"{len(made)} synthetic images of {drawer.size} px in {self.out}", as_json=self.json)
        return DONE

    def _steered(self, drawer: Drawer) -> Drawer:
        """The generator with what is asked of it."""
        from dataclasses import replace

        from fundusforge.models.stylegan import StyleGANConfig

        c, plain = drawer.config, self.truncation == 1 and self.grade is None and not self.finding
        if plain:
            return drawer
        if not isinstance(c, StyleGANConfig):
            raise UsageError(
                f"{drawer.name} is no stylegan model: it takes no --truncation, --grade, --finding"
            )
        if not 0 < self.truncation <= 1:
            raise UsageError(f"--truncation must be above 0 and at most 1, not {self.truncation}")
        drawer = replace(drawer, truncation=self.truncation)
        if self.grade is None and not self.finding:
            return drawer
        if self.grade is not None and ("grade" not in c.classes or not 0 <= self.grade <= 4):
            raise UsageError(
                f"--grade {self.grade}: {drawer.name} draws {', '.join(c.classes) or 'no grades'}"
            )
        if odd := [name for name in self.finding if name not in c.findings]:
            raise UsageError(
                f"--finding {odd[0]}: {drawer.name} draws {', '.join(c.findings) or 'no findings'}"
            )
        return replace(drawer, asked=(c.condition(self.grade, self.finding),))
