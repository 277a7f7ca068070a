"""Verdicts written into the weights that they are of, and the snapshot that is released by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fundusforge.audit.watch import LEAKING, SIDE
from fundusforge.studies.review.snapshots import REVIEW, Snapshot, facts, snapshot, snapshots
from fundusforge.studies.review.verdicts import Review, ReviewError, accepted, last_of_each, read_verdict
from fundusforge.training import checkpoint
from fundusforge.training.checkpoint import annotate_metadata
from fundusforge.training.run import BEST

REPLACED = "best.replaced.safetensors"
"""Name under which a run keeps the best model that a release replaced, unless it is one of the snapshots."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What became of one judgement."""

    path: Path
    weights: str
    review: Review
    new: bool
    """False if exactly this stood there already."""
    readers: int
    """Whose verdicts the weights now have."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """The snapshot that became the run's best model."""

    snapshot: Snapshot
    path: Path
    lacking: tuple[str, ...]
    """Facts of its training that neither it nor the run's model knows."""


def record(place: Path, verdict: Path) -> list[Recorded]:
    """Write a verdict into the metadata of the snapshots it is of: all of it, or nothing if one does not fit.

    Args:
        place: The run folder or file of weights that the page was made of.
        verdict: `verdict.json`.

    Returns:
        One for each judgement, in their order.

    Raises:
        ReviewError: The verdict cannot be read, or is of other weights.
        CheckpointError: See `snapshots`.
        OSError: A file cannot be read or written.
    """
    said, there = read_verdict(verdict), snapshots(place)
    by_weights = {one.weights: one for one in there}
    by_name = {one.name: one for one in there}
    pairs: list[tuple[Snapshot, Review]] = []
    for judgement in said.snapshots:
        found = by_weights.get(judgement.weights)
        if found is None:
            other = by_name.get(judgement.name)
            held = f"it holds {other.weights[:12]} now" if other else f"{place} has no such file"
            raise ReviewError(
                f"{verdict}: judges {judgement.name!r} with weights {judgement.weights[:12]}, but {held}; "
                "expected the weights of which the page was made"
            )
        pairs.append((found, said.review(judgement)))
    return [_record(one, review) for one, review in pairs]


def _record(one: Snapshot, review: Review) -> Recorded:
    reviews = one.reviews if review in one.reviews else (*one.reviews, review)
    new = len(reviews) > len(one.reviews)
    if new:
        annotate_metadata(one.path, **{REVIEW: [asdict(each) for each in reviews]})
    return Recorded(
        path=one.path, weights=one.weights, review=review, new=new, readers=len(last_of_each(reviews))
    )


def release(run: Path) -> Released:
    """Copy the accepted snapshot of the lowest distance, of those that do not leak, to `best.safetensors`.

    The best model that it replaces is kept as `best.replaced.safetensors`, unless it is a snapshot too. What
    the run noted of its training data in the model that it released is handed on.

    Raises:
        ReviewError: No run folder, or no snapshot may be released; the message says why of each.
        CheckpointError: See `snapshots`.
        OSError: The file cannot be written.
    """
    if not run.is_dir():
        raise ReviewError(f"{run}: expected a run folder, where the released weights go")
    there = snapshots(run)
    faults = {one.name: hindrance(one) for one in there}
    fit = [one for one in there if not faults[one.name]]
    if not fit:
        reasons = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        raise ReviewError(f"{run}: no snapshot can be released: {reasons}")
    chosen = min(fit, key=_distance)
    target, (tensors, metadata) = run / BEST, checkpoint.read(chosen.path)
    metadata = facts(run, metadata["config"]) | metadata
    if target != chosen.path:
        checkpoint.write(target, tensors, metadata, keep=_kept(run, there))
    lacking = tuple(name for name in ("terms", "patients") if name not in metadata)
    return Released(snapshot=chosen, path=target, lacking=lacking)


def hindrance(one: Snapshot) -> str:
    """Return why a snapshot may not be released; nothing if it may."""
    if not one.reviews:
        return "was judged by nobody"
    if not accepted(one.reviews):
        against = [name for name, last in last_of_each(one.reviews).items() if last.verdict == "reject"]
        return f"was rejected by {', '.join(against)}"
    measured = one.measured
    if measured is None or measured.distance is None:
        return "has no validation/distance in log.jsonl"
    if measured.leaked is None:
        return "" if one.side < SIDE else "was not looked at for copies (no validation/leaked in log.jsonl)"
    if measured.leaked > LEAKING:
        return f"leaks: {measured.leaked:.1%} of its images come too near to a training image"
    return ""


def _distance(one: Snapshot) -> float:
    assert one.measured is not None and one.measured.distance is not None
    return one.measured.distance


def _kept(run: Path, there: Sequence[Snapshot]) -> Path | None:
    """Where the best model so far is kept; None if there is none, or it is one of the snapshots."""
    if not (run / BEST).is_file():
        return None
    try:
        own = snapshot(run / BEST).weights
    except ValueError:
        own = ""
    return None if any(one.weights == own for one in there) else run / REPLACED
