"""`fundusforge upscale`: a dataset folder to one of twice the side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, emit, progress, say


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """Enlarge the photographs of a dataset folder, and their masks, to twice the side.

    Writes a dataset folder: photographs enlarged by a super-resolution network (`fundusforge train edsr`),
    masks with smooth outlines of the same area, everything else as it was. Synthetic images keep their
    marks and their provenance; real ones stay real. The detail that is added is invented in both: it is
    what photographs usually show at such places, so do not diagnose by it. Every file says that it was
    enlarged (`fundusforge:upscaled`), and the terms of the network's training data are added to each
    image's.

    The folder appears when it is whole; an interrupted run leaves nothing behind.

    Examples:
      fundusforge upscale synthetic --model runs/sharp --out large
      fundusforge upscale synthetic --model runs/sharp --ensemble --tile 256 --out large
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder."""
    model: Annotated[Path, arg(metavar="RUN")]
    """Run folder or safetensors file of an edsr model."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write; must not exist, or be empty."""
    ensemble: bool = False
    """Average over a photograph and its mirror image, or over all eight orientations where the network has
    learnt from them: a little better, twice or eight times the work."""
    tile: int = 512
    """Side in pixels of the parts in which a photograph is enlarged; smaller ones take less memory and more
    time, and give the same picture."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda."""
    seed: int = 0
    """Nothing is drawn here; accepted so that scripts can give it to every command."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Enlarge."""
        from fundusforge.records import read_folder
        from fundusforge.sample.upscaling import Upscaler, upscale_folder

        total = len(read_folder(self.folder, check_files=False))
        upscaler = Upscaler.load(self.model, device=self.device, tile=self.tile, ensemble=self.ensemble)
        work = upscale_folder(upscaler, self.folder, self.out)
        made = list(progress(work, "enlarging", total=total, quiet=self.quiet))
        real = sum(not record.synthetic for record in made)
        if real:
            say(f"note: {real} of {len(made)} images are real; their enlarged detail is invented")
        result = {
            "out": str(self.out), "images": len(made), "model": upscaler.name, "real": real,
            "ensemble": self.ensemble, "terms": list(upscaler.terms),
        }  # fmt: skip
        emit(result, f"{len(made)} images of twice the side in {self.out}", as_json=self.json)
        return DONE
