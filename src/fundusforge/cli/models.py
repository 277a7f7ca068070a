"""`fundusforge models`: what can be trained, and what comes with the package."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fundusforge.cli.command import DONE, emit, listing


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the families of models, their presets, and the weights that come with fundusforge.

    Embedded weights are shown with the terms of the data they were trained on and the figures they reached.

    Examples:
      fundusforge models
      fundusforge models --json
    """

    seed: int = 0
    """Nothing is drawn here; accepted so that scripts can give it to every command."""
    json: bool = False
    """Print the list as JSON on standard output."""

    def run(self) -> int:
        """List."""
        from fundusforge.models import FAMILIES, PRESETS
        from fundusforge.weights import catalogue

        embedded = catalogue()
        families = {
            name: {
                "description": _first_line(config),
                "presets": {preset: text for preset, (text, _) in PRESETS.get(name, {}).items()},
            }
            for name, config in FAMILIES.items()
        }
        shown = [asdict(one) | {"path": str(one.path), "card": str(one.card)} for one in embedded]
        parts = ["families and presets (fundusforge train FAMILY FOLDER --preset NAME):"]
        for name, family in families.items():
            parts.append(f"\n  {name}: {family['description']}")
            parts.append(listing(family["presets"], indent=4))
        parts.append("\nembedded weights:" if embedded else "\nembedded weights: none in this installation")
        parts += [_text(one) for one in shown]
        emit({"families": families, "embedded": shown}, "\n".join(parts), as_json=self.json)
        return DONE


def _first_line(config: type) -> str:
    return (config.__doc__ or "").strip().partition("\n")[0]


def _text(one: dict[str, Any]) -> str:
    figures = [f"{name} {value:.4g}" for name, value in one["figures"].items() if isinstance(value, float)]
    size = f"{one['bytes'] / 2**20:.1f} MiB"
    return "\n" + listing(
        {
            one["name"]: f"{one['family']} for {', '.join(one['masks']) or 'features'}, {size}",
            "  file": f"{one['path']} (SHA-256 {one['sha256'][:12]}...)",
            "  card": one["card"],
            "  terms": "; ".join(one["terms"]) or "unknown",
            "  figures": ", ".join(figures) or "none stored",
        }
    )
