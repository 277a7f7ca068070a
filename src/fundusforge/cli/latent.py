"""`fundusforge latent`: the space of vectors from which a generator draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, emit

if TYPE_CHECKING:
    from fundusforge.records import Record
    from fundusforge.sample.inversion import Inverter
    from fundusforge.sample.latents import Drawer

MAP, PROBES = "map.png", "probes.json"


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Explore the latent space of a generator.

    `project` draws the photographs of FOLDER again: a dataset folder of drawn images, how near each comes,
    its nearest neighbours in the space, and whether the vessels are the same. `map` encodes them and shows
    the space in two dimensions, coloured by eye, grade and source, and what linear probes read in it. `walk`
    makes a film: between random images, or with FOLDER along what tells one class from another (--along eye)
    or across the map (--along map). `train encoder` makes the encoder that finds photographs in the space.

    Projected images may show the vessels of a patient and are marked `structure_from_patient`; maps and
    probes show no image.

    Examples:
      fundusforge latent project runs/eyes data/drive --encoder runs/eyes-encoder --refine 200 --out projected
      fundusforge latent map runs/eyes data/odir --encoder runs/eyes-encoder --out map
      fundusforge latent walk runs/eyes --seed 3 --stops 5 --out walk.gif
      fundusforge latent walk runs/eyes data/odir --encoder runs/eyes-encoder --along eye --out eye.mp4
    """

    action: Annotated[Literal["project", "map", "walk"], Positional, arg(metavar="ACTION")]
    """project, map or walk."""
    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """Run folder or safetensors file of a pggan or stylegan model."""
    folder: Annotated[tuple[Path, ...], Positional, arg(metavar="[FOLDER]")] = ()
    """Dataset folder of photographs."""
    out: Annotated[Path, arg(metavar="PATH")]
    """Folder to write; of `walk` a .gif or .mp4."""
    encoder: Annotated[Path | None, arg(metavar="RUN")] = None
    """Encoder of that model, by `fundusforge train encoder`."""
    split: Literal["train", "val", "test"] | None = None
    """Take only photographs of this split."""
    refine: int = 0
    """Gradient steps that bring each vector nearer to its photograph."""
    along: str | None = None
    """walk: `map`, or a fact with two values (eye, source, sex)."""
    stops: int = 5
    """walk: images that the film passes through."""
    frames: int = 60
    """walk: frames one way."""
    reach: float = 1.5
    """walk along a fact: how far to either side, in lengths of a latent vector."""
    seed: int = 0
    """Seed of random vectors, maps, folds and bootstraps."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    quiet: bool = False
    """Accepted as by every command; nothing is shown on the way."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Project, map or walk."""
        from fundusforge.sample.latents import Drawer

        drawer = Drawer.load(self.model, device=self.device)
        result, text = getattr(self, f"_{self.action}")(drawer)
        emit(result, text, as_json=self.json)
        return DONE

    def _read(self) -> tuple[Inverter, Path, Sequence[Record]]:
        """The encoder, the folder and its records."""
        from fundusforge.cli.command import only
        from fundusforge.records import read_folder
        from fundusforge.sample.inversion import Inverter

        folder = only(self.folder, "FOLDER")
        if folder is None or self.encoder is None:
            raise UsageError(
                f"`{self.action}` needs a FOLDER of photographs and --encoder RUN (fundusforge train encoder)"
            )
        records = read_folder(folder, splits=(self.split,) if self.split else None)
        return Inverter.load(self.encoder, device=self.device), folder, records

    def _project(self, drawer: Drawer) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.explorer.projection import project

        inverter, folder, records = self._read()
        encoded, masks = project(drawer, inverter, folder, records, self.out, steps=self.refine)
        first, last = (float(values.mean()) for values in (encoded.first, encoded.distances))
        figures = {
            name: {"auc": one.auc, "low": one.interval.low, "high": one.interval.high, "n": one.n}
            for name, one in masks.items()
        }
        result = {
            "out": str(self.out), "images": len(records), "model": drawer.name, "encoder": inverter.name,
            "encoded": first, "distance": last, "masks": figures,
        }  # fmt: skip
        lines = [f"{len(records)} photographs drawn again in {self.out}: mean difference {first:.4f} encoded"]
        lines[0] += f", {last:.4f} refined" if self.refine else ""
        lines += [f"{n}: AUC {f['auc']:.3f} against people's of {f['n']} images" for n, f in figures.items()]
        return result, "\n".join(lines)

    def _map(self, drawer: Drawer) -> tuple[dict[str, Any], str]:
        from fundusforge.records import write_text
        from fundusforge.studies.explorer.maps import known, tsne, write_map
        from fundusforge.studies.explorer.projection import encode

        inverter, folder, records = self._read()
        encoded = encode(drawer, inverter, folder, records, steps=self.refine)
        facts = known(records)
        found = _probes(encoded.latents, records, facts, seed=self.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        write_map(self.out / MAP, tsne(encoded.latents, seed=self.seed), facts)
        result = {"out": str(self.out), "images": len(records), "model": drawer.name, "probes": found}
        write_text(self.out / PROBES, json.dumps(result, indent=2) + "\n")
        lines = [
            f"{name}: {p['accuracy']:.3f} [{p['low']:.3f}, {p['high']:.3f}] of {p['n']} right, "
            f"chance {p['chance']:.3f}"
            for name, p in found.items()
        ]
        return result, "\n".join([f"{len(records)} photographs on {self.out / MAP}", *lines])

    def _walk(self, drawer: Drawer) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.explorer.walks import draw_frames, through, write_film

        if self.frames < 2 or self.stops < 2:
            raise UsageError("a walk needs at least 2 frames and 2 stops")
        path = self._path(drawer) if self.along else through(self._stops(drawer), self.frames)
        write_film(self.out, draw_frames(drawer, path))
        return {
            "out": str(self.out),
            "frames": len(path),
            "model": drawer.name,
        }, f"{len(path)} frames in {self.out}"

    def _stops(self, drawer: Drawer) -> Any:
        import numpy as np

        return np.concatenate([drawer.latent(self.seed, index) for index in range(self.stops)])

    def _path(self, drawer: Drawer) -> Any:
        """Vectors along a fact or across the map."""
        from fundusforge.studies.explorer.maps import known, tsne
        from fundusforge.studies.explorer.probes import probe
        from fundusforge.studies.explorer.projection import encode
        from fundusforge.studies.explorer.walks import across, along, through

        inverter, folder, records = self._read()
        encoded = encode(drawer, inverter, folder, records, steps=self.refine)
        if self.along == "map":
            return through(
                across(tsne(encoded.latents, seed=self.seed), encoded.latents, stops=self.stops), self.frames
            )
        facts = known(records)
        if self.along not in facts:
            raise UsageError(
                f"--along {self.along}: the photographs differ in {', '.join(facts) or 'nothing'}, or `map`"
            )
        rows = [i for i, value in enumerate(facts[self.along]) if value is not None]
        found = probe(
            encoded.latents[rows], [str(facts[self.along][i]) for i in rows],
            [records[i].patient for i in rows], seed=self.seed,
        )  # fmt: skip
        if found is None or found.direction is None:
            raise UsageError(f"--along {self.along}: two values, each of five patients or more, are needed")
        return along(drawer.latent(self.seed, 0)[0], found.direction, self.reach, self.frames)


def _probes(
    latents: Any, records: Sequence[Record], facts: dict[str, list[str | None]], *, seed: int
) -> dict[str, Any]:
    """Figures of a probe of every fact that has one."""
    from fundusforge.studies.explorer.probes import probe

    found: dict[str, Any] = {}
    for name, values in facts.items():
        rows = [i for i, value in enumerate(values) if value is not None]
        one = probe(
            latents[rows], [str(values[i]) for i in rows], [records[i].patient for i in rows], seed=seed
        )
        if one is not None:
            found[name] = {
                "accuracy": one.accuracy, "low": one.interval.low, "high": one.interval.high,
                "chance": one.chance, "n": one.n, "classes": list(one.classes),
            }  # fmt: skip
    return found
