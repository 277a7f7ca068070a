"""Copies among what a generator draws, counted while it still trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusforge.audit.nearest import Training, Unrelated, View, hidden
from fundusforge.audit.pixels import pixel_plane
from fundusforge.audit.stage import AuditConfig, search, views
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.images import Grey, Image
from fundusforge.records import Record

SIDE = 64
"""Least side in pixels of drawn images that are compared: smaller ones show nobody's vessels."""
LEAKING = 0.03
"""Share of drawn images that may come too near to one learnt from: one of 64 may by chance."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Photographs learnt from, and how near to them unrelated patients come by chance."""

    training: Training
    unrelated: Unrelated

    @classmethod
    def of(cls, learnt: Sequence[Record], held: Sequence[Record]) -> Watch | None:
        """Look at photographs, whose records have absolute paths; None if no patient is held out.

        Pixels alone are compared, whole and by halves: a tree is found too slowly for a training.

        Raises:
            DatasetError: A picture cannot be read, or shows no field of view.
        """
        known = {record.patient for record in learnt}
        apart = [record for record in held if record.patient not in known]
        if not learnt or not apart:
            return None
        training = Training(views(ImageSet(folder=Path("/"), records=learnt)))
        near = search(training, views(ImageSet(folder=Path("/"), records=apart)))
        doubles = set(hidden(near))
        rows = [
            (each, record.patient)
            for i, (each, record) in enumerate(zip(near, apart, strict=True))
            if i not in doubles
        ]
        if not rows:
            return None
        nearest, patients = zip(*rows, strict=True)
        return cls(training=training, unrelated=Unrelated(nearest, patients))

    def leaked(self, drawn: Sequence[tuple[Image, Grey | None]]) -> float:
        """Return the share of drawn images that come nearer to one learnt from than chance allows.

        Args:
            drawn: Images (S, S, 3) uint8 with their field of view (S, S), None where none was found: such an
                image is nobody's.
        """
        bar = self.unrelated.bar(AuditConfig.level, AuditConfig.margin)
        found = 0
        for image, field in drawn:
            if field is not None and min(image.shape[:2]) >= SIDE:
                near = self.training.nearest(View(pixels=pixel_plane(image, field)))
                found += self.unrelated.largest(near)[0] >= bar
        return found / max(1, len(drawn))
