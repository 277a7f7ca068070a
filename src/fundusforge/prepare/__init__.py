"""Published pictures to a dataset folder: field of view, quality, duplicates, split."""

from fundusforge.prepare.picture import Prepared, Unfit, prepare_image
from fundusforge.prepare.quality import Quality
from fundusforge.prepare.settings import PrepareConfig
from fundusforge.prepare.stage import Summary, prepare

__all__ = ["PrepareConfig", "Prepared", "Quality", "Summary", "Unfit", "prepare", "prepare_image"]
