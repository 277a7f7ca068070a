"""The failure atlas: which synthetic images look least, and most, like real ones, and why.

Images are ranked by the number of anatomical rules they break (`plausibility`) and, among equals, by how
real they look to a probe that has not seen them (`probe`). Either may be missing: without vessels there are
no rules, without an extractor or with few patients there is no probe.
"""

from __future__ import annotations

from fundusforge.evaluate import plausibility, probe
from fundusforge.evaluate.anatomy.population import anatomies, readable
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.figures import Atlas, Judged

SHOWN = 8
"""Images at either end."""


def atlas(evidence: Evidence, *, count: int = SHOWN) -> Atlas:
    """Return the `count` least and the `count` most plausible synthetic images; no image is at both ends.

    An image whose vessels nobody knows has no rules to break, and is ranked by the probe alone. The atlas is
    empty where there are neither rules nor a probe.
    """
    broken, scores = _broken(evidence), _scores(evidence)
    if broken is None and scores is None:
        return Atlas()
    judged = [
        Judged(
            image=record.image,
            violations=(broken or {}).get(record.image, ()),
            score=None if scores is None else scores[place],
        )
        for place, record in enumerate(evidence.synthetic.records)
    ]
    order = sorted(judged, key=lambda each: (-len(each.violations), each.score or 0.0, each.image))
    count = min(count, len(order) // 2)
    return Atlas(least=tuple(order[:count]), most=tuple(order[len(order) - count :][::-1]))


def _broken(evidence: Evidence) -> dict[str, tuple[str, ...]] | None:
    """Return the rules that each image breaks; None if in a set no vessels are known."""
    synthetic, real = readable(evidence, evidence.synthetic), readable(evidence, evidence.real)
    if not len(synthetic) or not len(real):
        return None
    limits = plausibility.usual(anatomies(evidence, real))
    found = plausibility.rows(synthetic, anatomies(evidence, synthetic), limits)
    return {row.image: row.violations for row in found}


def _scores(evidence: Evidence) -> list[float] | None:
    """Return each image's log-odds of being real; None without an extractor or with few patients."""
    patients = (evidence.synthetic.patients, evidence.real.patients)
    if evidence.extractor is None or min(len(set(names)) for names in patients) < probe.FEWEST:
        return None
    vectors = evidence.features(evidence.synthetic), evidence.features(evidence.real)
    return probe.probe_scores(*vectors, patients, seed=evidence.seed)[0].tolist()
