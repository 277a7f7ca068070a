"""`fundusforge report`: results as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, emit


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make one self-contained HTML page of the results of `fundusforge evaluate`.

    The page shows synthetic images with their masks, every figure with its interval beside the same figure
    of real images, where everything came from, and warnings. It needs no network. Real photographs are left
    out unless --include-real is given; the page is then patient data.

    Examples:
      fundusforge report results
      fundusforge report results --out page.html --images 24
      fundusforge report results --audit audit
    """

    results: Annotated[Path, Positional, arg(metavar="RESULTS")]
    """Folder with results.json, or that file."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Page to write; report.html beside the results if left out."""
    audit: Annotated[Path | None, arg(metavar="AUDIT")] = None
    """audit.json of the same images, or the folder that holds it, to be shown on the page too."""
    folder: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder of the judged images, if it has moved since."""
    against: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder of the real images, if it has moved since."""
    images: int = 12
    """Most pictures of each set."""
    include_real: bool = False
    """Show real photographs too; the page is then patient data."""
    title: str = "Synthetic fundus images, judged"
    """Heading of the page."""
    seed: int = 0
    """Decides which pictures are shown."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Write the page."""
        from fundusforge.report import ReportConfig, write_report

        config = ReportConfig(
            results=self.results, out=self.out, audit=self.audit, folder=self.folder, against=self.against,
            images=self.images, include_real=self.include_real, title=self.title, seed=self.seed,
        )  # fmt: skip
        page = write_report(config)
        emit({"report": str(page)}, str(page), as_json=self.json)
        return DONE
