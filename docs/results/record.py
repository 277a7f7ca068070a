"""Record measured figures: JSON lines on standard input, into figures.jsonl beside this file.

    python examples/score_masks.py runs/drive data/drive584 | python docs/results/record.py

Each line needs name, value, low, high, n, unit and command (other keys are dropped); the commit is added. A
figure of the same name is replaced.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fundusforge.records import write_text

FIGURES = Path(__file__).with_name("figures.jsonl")
KEYS = ("name", "value", "low", "high", "n", "unit", "command")


def main() -> None:
    """Read, merge, write."""
    lines = FIGURES.read_text("utf-8").splitlines() if FIGURES.exists() else []
    known = {row["name"]: row for row in map(json.loads, lines)}
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    )
    for line in sys.stdin:
        if line.startswith("{"):
            row = json.loads(line)
            known[row["name"]] = {key: row[key] for key in KEYS} | {"commit": commit.stdout.strip()}
    write_text(FIGURES, "".join(json.dumps(known[name]) + "\n" for name in sorted(known)))


if __name__ == "__main__":
    main()
