"""Maps of a latent space: encoded images in two dimensions, coloured by what is known of them.

t-SNE (van der Maaten and Hinton 2008), as Beers et al. show their Figure 5. Points only: no image, and so
nobody's vessels, is on the map.
"""

# scikit-learn and matplotlib have no or few type annotations.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusforge.records import DatasetError, Record, write_bytes
from fundusforge.sample.latents import Latents

FEWEST = 10
"""Images below which a map shows nothing."""


def known(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """Return what people said of each image, where that varies: eye, grade, source, sex.

    What a model predicted counts as unknown (None).
    """

    def said(record: Record, name: str) -> str | None:
        value = getattr(record, name)
        return None if value is None or name in record.predicted else str(value)

    facts = {name: [said(record, name) for record in records] for name in ("eye", "grade", "source", "sex")}
    return {name: values for name, values in facts.items() if len(set(values) - {None}) > 1}


def tsne(latents: Latents, *, seed: int = 0) -> NDArray[np.float32]:
    """Return the places (N, 2) of vectors (N, L) on a map.

    Raises:
        DatasetError: Fewer than ten.
    """
    if len(latents) < FEWEST:
        raise DatasetError(f"a map of {len(latents)} images shows nothing; {FEWEST} are needed")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(latents) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed).fit_transform(latents)
    return np.asarray(found, np.float32)


def write_map(path: Path, places: NDArray[np.floating], facts: Mapping[str, Sequence[str | None]]) -> None:
    """Write a PNG: one panel for each fact, points coloured by it, those of which it is unknown in grey.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    panels = facts or {"": [None] * len(places)}
    figure = Figure(figsize=(5 * len(panels), 5), layout="constrained")
    for place, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for value in sorted(set(values), key=lambda v: (v is None, v)):
            mine = np.array([each == value for each in values])
            axes.scatter(
                *places[mine].T,
                s=14,
                label=f"{value or 'unknown'} ({mine.sum()})",
                c="0.8" if value is None else None,
            )
        axes.set(title=name, xticks=[], yticks=[])
        axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
