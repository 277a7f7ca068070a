"""`fundusforge turing`: can readers tell synthetic images from real ones?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, command_line, emit, only, progress, say

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True, kw_only=True)
class Turing:
    """The image Turing test: readers say of each picture whether it is real or synthetic (Kim et al. 2022).

    `design` draws images from two dataset folders, renders them alike and freezes the study in a folder that
    is private: it holds photographs of patients, and the key. `invite` makes links, each for one reader and
    shown once; `revoke` takes them back. `serve` is the web application, for readers and, under /admin, for
    whoever runs the study. `export` writes answers.csv and readers.csv into the study folder, `analyse`
    makes tables and figures of them. `plan` says before a study how many readers and images it needs.

    Examples:
      fundusforge turing design --real data/odir --synthetic drawn --out study --repeats 20
      fundusforge turing invite study -n 12 --label residents --url https://study.example.org
      fundusforge turing serve study --behind-proxy
      fundusforge turing export study
      fundusforge turing analyse study
      fundusforge turing plan --goal difference --accuracy 0.5 0.6 --group-readers 14 --images 100
    """

    action: Annotated[
        Literal["design", "invite", "revoke", "serve", "export", "analyse", "plan"],
        Positional, arg(metavar="ACTION"),
    ]  # fmt: skip
    """design, invite, revoke, serve, export, analyse or plan."""
    study: Annotated[tuple[Path, ...], Positional, arg(metavar="[STUDY]")] = ()
    """Study folder."""
    real: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """design: dataset folder of photographs."""
    synthetic: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """design: dataset folder of synthetic images."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """design: study folder to write; export, analyse: folder of the files, else in the study's."""
    real_images: int = 50
    """design: photographs to draw."""
    synthetic_images: int = 50
    """design: synthetic images to draw."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    """design: splits of the photographs."""
    conditions: tuple[Literal["full", "crop", "mask"], ...] = ("full",)
    """design: the whole picture, a part of it, the picture with its masks beside it."""
    assign: Literal["one", "each"] = "one"
    """design: show every image under one of the conditions, or under each."""
    repeats: int = 0
    """design: pictures shown a second time, for the agreement of readers with themselves."""
    gap: int = 5
    """design: other images between two pictures of the same image, at least."""
    orders: int = 1
    """design: 1 shows all readers the same order; with more, reader n sees the n-th."""
    fidelity: bool = False
    """design: also ask how lifelike a picture is, 1 to 10."""
    marks: bool = False
    """design: let readers mark what looks wrong."""
    score: bool = False
    """design: tell readers at the end how many of their answers were right."""
    masks: tuple[str, ...] = ("vessels",)
    """design: masks of condition `mask`."""
    crop: float = 0.5
    """design: side of condition `crop`, as a part of the picture's."""
    side: int | None = None
    """design: side of the pictures in pixels; that of the smallest image if left out."""
    field: Literal["common", "own"] = "common"
    """design: show the part of the field of view that all images have, or each its own."""
    encoding: Literal["png", "jpg"] = "png"
    """design: how all pictures are encoded."""
    count: Annotated[int, arg(name="n", aliases=("-n",))] = 1
    """invite: number of readers."""
    label: str = ""
    """invite: what to call them on the administrator's page; never exported."""
    url: str = "http://127.0.0.1:8000"
    """invite: address under which readers reach the server."""
    readers: tuple[str, ...] = ()
    """revoke: names of readers, such as r03."""
    database: str | None = None
    """Address of the database, as postgresql://USER@HOST/NAME; SQLite in the study folder if left out."""
    texts: Annotated[Path | None, arg(metavar="FILE")] = None
    """serve: texts in another language: a file, or de."""
    host: str = "127.0.0.1"
    """serve: address to listen on."""
    port: int = 8000
    """serve: port to listen on."""
    workers: int = 1
    """serve: processes."""
    behind_proxy: bool = False
    """serve: trust X-Forwarded-For and X-Forwarded-Proto; for a server that only a proxy can reach."""
    admin_token_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """serve: file with the administrator's token, made if it is not there; else one is printed once."""
    rate_address: float = 100.0
    """serve: requests a second from one address, and four times as many at once."""
    rate_token: float = 20.0
    """serve: requests a second of one reader, and four times as many at once."""
    reference: str = "resident"
    """analyse: specialty that the others are compared with."""
    years: float = 5
    """analyse: years of work at which specialties are parted."""
    unfinished: bool = False
    """analyse: also count readers who have not come to the end."""
    draws: int = 1000
    """analyse: bootstrap draws."""
    margin: float = 0.1
    """analyse, plan: largest distance of balanced accuracy from 50 % that counts as guessing."""
    level: float = 0.05
    """analyse, plan: level of each test."""
    goal: Literal["equivalence", "difference"] = "equivalence"
    """plan: to show that readers guess, within the margin; or that two groups differ."""
    group_readers: int = 14
    """plan: readers of a group; one group for equivalence, two for a difference."""
    images: int = 100
    """plan: images, real and synthetic together."""
    prevalence: float = 0.5
    """plan: share of them that is synthetic."""
    accuracy: tuple[float, ...] = (0.5,)
    """plan: true balanced accuracy: one number for equivalence, two for a difference."""
    lean: float = 0.17
    """plan: true sensitivity less accuracy: how much readers lean towards calling images real."""
    outcome: Literal["accuracy", "sensitivity", "specificity"] = "accuracy"
    """plan: what is compared between two groups."""
    reader_sd: float = 0.65
    """plan: spread of readers' ability, on the logit scale."""
    lean_sd: float = 1.05
    """plan: spread of their leaning."""
    image_sd: float = 0.5
    """plan: spread of images' difficulty."""
    power: float = 0.8
    """plan: power that is wanted."""
    vary: Literal["readers", "images"] = "readers"
    """plan: what to search the smallest number of."""
    most: int = 400
    """plan: largest number to try."""
    studies: int = 2000
    """plan: simulated studies for each size."""
    seed: int = 0
    """Seed of every random draw."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Do what the action says."""
        try:
            result, text = getattr(self, f"_{self.action}")()
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("fundusforge"):
                raise
            raise UsageError(f"{error.name} is missing: pip install 'fundusforge[study]'") from None
        emit(result, text, as_json=self.json)
        return DONE

    def _design(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.design import DesignConfig, design

        if self.study or self.real is None or self.synthetic is None or self.out is None:
            raise UsageError(
                "design needs --real FOLDER, --synthetic FOLDER and --out STUDY, and nothing else"
            )
        config = DesignConfig(
            real=self.real, synthetic=self.synthetic, out=self.out, real_images=self.real_images,
            synthetic_images=self.synthetic_images, splits=self.splits, conditions=self.conditions,
            assign=self.assign, repeats=self.repeats, gap=self.gap, orders=self.orders,
            fidelity=self.fidelity, marks=self.marks, score=self.score, masks=self.masks, crop=self.crop,
            side=self.side, field=self.field, encoding=self.encoding, seed=self.seed,
        )  # fmt: skip
        made = design(
            config,
            progress=lambda all_: progress(all_, "rendering", total=len(list(all_)), quiet=self.quiet),
        )
        for warning in made.warnings:
            say(f"warning: {warning}")
        say(f"{self.out} holds photographs and the key: keep it private")
        study = made.study
        result = {
            "out": str(self.out), "pictures": study.total, "sha256": study.sha256,
            "warnings": list(made.warnings),
        }  # fmt: skip
        return result, f"{study.total} pictures to be judged in {self.out} (SHA-256 {study.sha256})"

    def _invite(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.database import transaction
        from fundusforge.studies.turing.store import invite

        if self.count < 1:
            raise UsageError(f"-n must be 1 or more, not {self.count}")
        engine = self._engine()
        made = transaction(engine, lambda connection: invite(connection, self.count, label=self.label))
        links = {name: f"{self.url.rstrip('/')}/i/{token}" for name, token in made}
        say("Each link is for one reader and is shown only now.")
        text = "\n".join(f"{name}  {link}" for name, link in links.items())
        return {"readers": [{"reader": name, "link": link} for name, link in links.items()]}, text

    def _revoke(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.database import transaction
        from fundusforge.studies.turing.store import revoke

        if not self.readers:
            raise UsageError("revoke needs --readers, such as --readers r03 r04")
        names = transaction(self._engine(), lambda connection: revoke(connection, self.readers))
        return {"revoked": names}, f"revoked {', '.join(names)}; what they answered stays"

    def _serve(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.app import check, serve
        from fundusforge.studies.turing.site import ServeConfig

        config = ServeConfig(
            study=self._folder(), database=self.database, texts=self.texts, host=self.host, port=self.port,
            workers=self.workers, behind_proxy=self.behind_proxy, rate_address=self.rate_address,
            rate_token=self.rate_token,
        )  # fmt: skip
        token = check(config, admin_token_file=self.admin_token_file)
        address = f"http://{self.host}:{self.port}"
        if token is not None:
            say(f"administrator's token, shown only now: {token}")
        say(f"{address} for readers with a link, {address}/admin for you; stop with Ctrl+C")
        serve(config)
        return {"served": address}, f"stopped {address}"

    def _export(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.exports import export
        from fundusforge.studies.turing.study import read_key, read_study

        folder = self._folder()
        out = self.out or folder
        lines = export(self._engine(), read_study(folder), read_key(folder), out)
        told = ", ".join(f"{count} lines of {name}" for name, count in lines.items())
        return {"out": str(out), "lines": lines}, f"{told} in {out}"

    def _folder(self) -> Path:
        folder = only(self.study, "STUDY")
        if folder is None:
            raise UsageError(f"{self.action} needs a STUDY folder")
        return folder

    def _engine(self) -> Engine:
        """Open the database of the study, and bind it to it."""
        from fundusforge.studies.turing.database import connect, location, transaction
        from fundusforge.studies.turing.store import claim
        from fundusforge.studies.turing.study import read_study

        study = read_study(self._folder())
        engine = connect(location(self._folder(), self.database))
        transaction(engine, lambda connection: claim(connection, study))
        return engine

    def _analyse(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.analysis import AnalysisConfig, analyse

        config = AnalysisConfig(
            study=self._folder(), out=self.out, reference=self.reference, years=self.years,
            margin=self.margin, level=self.level, unfinished=self.unfinished, draws=self.draws,
            seed=self.seed,
        )  # fmt: skip
        found = analyse(config, command=command_line(), progress=None if self.quiet else say)
        return found.to_dict(), found.text()

    def _plan(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.turing.power import PlanConfig, plan

        names = [field.name for field in fields(PlanConfig)]
        try:
            config = PlanConfig(**{name: getattr(self, name) for name in names})
        except ValueError as error:
            raise UsageError(str(error)) from None
        found = plan(config, command=command_line(), progress=None if self.quiet else say)
        return found.to_dict(), found.text()
