"""Statistics of the reader study on readers of a known kind: coverage of the GEE, level of equivalence.

    python benchmarks/turing_statistics.py [--studies 400] [--tests 4000] [--seed 0]

Studies have the size of Kim et al. 2022: 12 residents, 14 non-retinal and 14 retinal specialists, 50 real and
50 synthetic images, with crossed random effects of readers (ability, leaning) and images (difficulty) on the
logit scale (`fundusforge.studies.turing.simulation`).

`gee_coverage`: the share of studies whose 95 % interval of the odds ratio of retinal specialists against
residents holds the true one. A GEE estimates the *marginal* odds ratio, that of the shares of right answers
over all readers and images; groups are described by those shares and the intercepts that give them are found
by quadrature, so that the truth is known exactly. `gee_bias` is the mean error of the log odds ratio, and
`gee_type_one` the share of studies in which non-retinal specialists, who are as good as residents, are found
to differ at 0.05.

`tost_type_one`: 40 readers whose true balanced accuracy lies at the edge of the margin, 0.6; the share of
studies that call them equivalent to guessing at level 0.05. `tost_type_one_images_fixed` is that of the same
test with the standard error of readers alone, which is what a GEE clustered by reader gives.

Prints lines of JSON. Shares have Wilson's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before NumPy reads them: one thread is fastest for small arrays

import numpy as np  # noqa: E402

from fundusforge.audit.tally import wilson  # noqa: E402
from fundusforge.studies.turing.answers import Grid, Reader  # noqa: E402
from fundusforge.studies.turing.crossed import mean, scores_of  # noqa: E402
from fundusforge.studies.turing.equivalence import p_values  # noqa: E402
from fundusforge.studies.turing.gee import compare  # noqa: E402
from fundusforge.studies.turing.groups import groupings  # noqa: E402
from fundusforge.studies.turing.simulation import Group, Spread, draw_correct  # noqa: E402

REAL = SYNTHETIC = 50
MARGIN = 0.1
GROUPS = (
    Group(specialty="resident", readers=12, sensitivity=0.69, specificity=0.33),
    Group(specialty="non-retinal", readers=14, sensitivity=0.69, specificity=0.33),
    Group(specialty="retinal", readers=14, sensitivity=0.78, specificity=0.45),
)
"""As Table 2 of the paper has residents and retinal specialists."""
BATCH = 200


def log_odds(group: Group) -> float:
    accuracy = (REAL * group.sensitivity + SYNTHETIC * group.specificity) / (REAL + SYNTHETIC)
    return math.log(accuracy / (1 - accuracy))


def gee(studies: int, *, seed: int, spread: Spread) -> list[dict[str, Any]]:
    """Return coverage, bias and type I error of the comparison of groups."""
    rng = np.random.default_rng([seed, 1])
    readers = tuple(
        Reader(
            reader=f"{group.specialty}-{number}", specialty=group.specialty, years=1, started="", finished=""
        )
        for group in GROUPS
        for number in range(group.readers)
    )
    synthetic = np.arange(REAL + SYNTHETIC) >= REAL
    grouping = groupings(readers, reference="resident", years=5)[1]
    truth = log_odds(GROUPS[2]) - log_odds(GROUPS[0])
    held, found, errors = 0, 0, []
    for _ in range(studies):
        correct = draw_correct(GROUPS, spread, real=REAL, synthetic=SYNTHETIC, rng=rng)[0].astype(float)
        grid = Grid(
            readers=readers, images=tuple(map(str, range(len(synthetic)))), synthetic=synthetic,
            said_real=np.where(synthetic, 1 - correct, correct), seconds=correct, fidelity=correct,
        )  # fmt: skip
        other, retinal = sorted(compare(grid, grouping, "accuracy"), key=lambda one: one.group)
        if other.p is None or retinal.value is None or retinal.low is None or retinal.high is None:
            raise RuntimeError(f"a fit failed: {other.reason or retinal.reason}")
        held += retinal.low <= math.exp(truth) <= retinal.high
        found += other.p < 0.05
        errors.append(math.log(retinal.value) - truth)
    error = 1.96 * float(np.std(errors, ddof=1)) / math.sqrt(studies)
    bias = float(np.mean(errors))
    return [
        share("gee_coverage", held, studies, "share of studies"),
        {"name": "gee_bias", "value": bias, "low": bias - error, "high": bias + error, "n": studies,
         "unit": f"log odds ratio, true {truth:.4f}"},
        share("gee_type_one", found, studies, "share of studies"),
    ]  # fmt: skip


def tost(studies: int, *, seed: int, spread: Spread) -> list[dict[str, Any]]:
    """Return how often readers at the margin's edge are called equivalent to guessing."""
    rng = np.random.default_rng([seed, 2])
    edge = [
        Group(specialty="all", readers=40, sensitivity=0.5 + MARGIN + 0.17, specificity=0.5 + MARGIN - 0.17)
    ]
    strata = (np.arange(REAL + SYNTHETIC) >= REAL).astype(np.intp)
    hits, fixed, done = 0, 0, 0
    while done < studies:
        some = min(BATCH, studies - done)
        correct = draw_correct(edge, spread, real=REAL, synthetic=SYNTHETIC, rng=rng, studies=some)
        found = mean(scores_of(correct.astype(float), strata, balanced=True))
        hits += int((p_values(found.value, found.variance, found.degrees, margin=MARGIN)[0] < 0.05).sum())
        fixed += int(
            (p_values(found.value, found.reader, found.reader_degrees, margin=MARGIN)[0] < 0.05).sum()
        )
        done += some
    return [
        share("tost_type_one", hits, studies, "share of studies"),
        share("tost_type_one_images_fixed", fixed, studies, "share of studies"),
    ]


def share(name: str, hits: int, n: int, unit: str) -> dict[str, Any]:
    low, high = wilson(hits, n)
    return {"name": name, "value": hits / n, "low": low, "high": high, "n": n, "unit": unit}


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage of the GEE and level of the test of equivalence")
    parser.add_argument("--studies", type=int, default=400, help="simulated studies for the GEE")
    parser.add_argument(
        "--tests", type=int, default=4000, help="simulated studies for the test of equivalence"
    )
    parser.add_argument("--image-sd", type=float, default=Spread.image, help="between images, logit scale")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    spread = Spread(image=options.image_sd)
    command = " ".join(["python", "benchmarks/turing_statistics.py", *sys.argv[1:]])
    for measure, studies in ((gee, options.studies), (tost, options.tests)):
        for row in measure(studies, seed=options.seed, spread=spread):
            print(json.dumps(row | {"command": command}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
