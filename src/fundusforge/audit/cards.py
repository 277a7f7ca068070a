"""Cards for people: what a released folder is (data card), and what the model behind it is (model card).

Both are Markdown made from what the stages left: the records, the audit, the evaluation, the model's own
metadata and its run. They name no path and no training image, since they are passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fundusforge.audit.findings import Audit
from fundusforge.audit.parents import Parent
from fundusforge.audit.scorecard import NOT_MEASURED, Evidence, figure_table, scorecard, table
from fundusforge.audit.terms import Inherited, strictest
from fundusforge.evaluate.figures import Figure

_LIMITS = (
    "- Synthetic images repeat what the training images show and miss what they lack. They prove nothing",
    "  about patients, cameras or diseases that are rare or absent there.",
    "- Whatever is unusual in an image is more likely a fault of the generator than a finding.",
    "- Not for diagnosis, and no substitute for real images in a final test.",
    "- The audit compares with the training images it was given, in the ways it names. It lowers the risk",
    "  that an image points to a patient; it does not make that impossible.",
)


def data_card(
    name: str, evidence: Evidence, *, terms: Inherited, sizes: Mapping[str, int], version: str
) -> str:
    """Return the data card of a released folder, Markdown.

    Args:
        name: What to call the folder.
        evidence: What is known of its images.
        terms: What it inherits.
        sizes: Images by width x height.
        version: Of fundusforge.
    """
    records = evidence.records
    sources = Counter(record.source for record in records)
    lines = [
        f"# {name}",
        "",
        f"{len(records)} synthetic fundus photographs. None is a photograph of a person, and each says so in",
        "its metadata and inside its file (PNG text and XMP, IPTC source type `trainedAlgorithmicMedia`).",
        "",
        *table(
            ("", ""),
            [
                ("images", len(records)),
                ("sizes", ", ".join(f"{size} ({count})" for size, count in sizes.items())),
                ("made by", ", ".join(f"{source} ({count})" for source, count in sorted(sources.items()))),
                ("terms", f"{terms.level}: {terms.meaning}"),
                ("terms of the sources", terms.text),
                ("format", "metadata.jsonl in the Hugging Face imagefolder convention; masks of 0 and 255"),
                ("released with", f"fundusforge {version}"),
                ("to check", "`fundusforge release --verify FOLDER`, or `sha256sum -c SHA256SUMS`"),
            ],
        ),
        "",
        "## The seven criteria",
        "",
        *scorecard(evidence),
        "",
        "## Limits",
        "",
        *_LIMITS,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def model_card(parent: Parent, *, audit: Audit | None = None, figures: Sequence[Figure] | None = None) -> str:
    """Return the card of a generator, Markdown.

    Args:
        parent: The model.
        audit: An audit of images that it made.
        figures: Figures of images that it made.
    """
    inherited = strictest(parent.terms)
    lines = [
        f"# {parent.name}",
        "",
        "A generator of synthetic fundus photographs.",
        "",
        *table(
            ("", ""),
            [
                ("family", parent.family),
                ("weights", f"SHA-256 begins {parent.digits}"),
                ("trained with", f"fundusforge {parent.version}, {parent.images} images seen"),
                ("training data", ", ".join(parent.sources) or "not said"),
                ("training patients", len(parent.patients) or "not said"),
                ("terms", f"{inherited.level}: {inherited.meaning}"),
                ("terms of the sources", inherited.text),
                *((f"model: {key}", value) for key, value in _plain(parent.config)),
            ],
        ),
        "",
        "## Use",
        "",
        "Images for training and teaching, and test input for software. Not for diagnosis.",
        "",
        "## Training",
        "",
        *_training(parent),
        "",
        "## Figures",
        "",
        *_figures(parent, figures),
        "",
        "## Privacy",
        "",
        *_privacy(audit),
        "",
        "## Limits",
        "",
        *_LIMITS,
    ]  # fmt: skip
    if parent.card:
        lines += ["", "## Its own card", "", *_demoted(parent.card)]
    return "\n".join(lines) + "\n"


def sizes_of(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Return images by width x height, the most frequent first; only headers are read."""
    from PIL import Image

    found: Counter[str] = Counter()
    for name in names:
        with Image.open(folder / name) as picture:
            found[f"{picture.width}x{picture.height}"] += 1
    return dict(found.most_common())


def _plain(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings in words; those unset and paths of weights are left out."""
    found: list[tuple[str, str]] = []
    for key, value in config.items():
        if value in (None, [], "") or key == "kind" or key.endswith("_weights"):
            continue
        words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        found.append((key.replace("_", " "), words))
    return found


def _training(parent: Parent) -> list[str]:
    if parent.settings is None:
        return ["The run is not at hand, so its settings are not known."]
    data = {k: v for k, v in parent.settings.get("data", {}).items() if isinstance(v, int | float)}
    rows = [*_plain(parent.settings.get("loop", {})), *_plain(data)]
    return table(("setting", ""), rows)


def _figures(parent: Parent, figures: Sequence[Figure] | None) -> list[str]:
    lines: list[str] = []
    if parent.figures:
        rows = [(key.replace("_", " "), f"{value:.4g}") for key, value in parent.figures.items()]
        lines += ["On its validation images:", "", *table(("figure", "value"), rows), ""]
    told = figure_table(figures) if figures else [NOT_MEASURED]
    return [*lines, "Of images that it made, against real ones:", "", *told]


def _privacy(audit: Audit | None) -> list[str]:
    if audit is None:
        return [NOT_MEASURED]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in audit.counts().items() if count)
    membership = [figure for figure in audit.figures if figure.name.startswith("membership_")]
    return [
        f"{len(audit.findings)} of its images, each against {audit.train.images} training images of "
        f"{audit.train.patients} patients ({', '.join(audit.train.sources)}): {counts or 'none'}.",
        "",
        "Membership inference (the column of real images is the control, made without synthetic ones):",
        "",
        *(figure_table(membership) if membership else [NOT_MEASURED]),
    ]


def _demoted(card: str) -> list[str]:
    """Return a card's lines with its headings one level lower."""
    return [f"##{line}" if line.startswith("#") else line for line in card.strip().splitlines()]
