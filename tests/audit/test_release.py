"""The gate: what it lets through, everything that it must refuse, and a release that can be checked again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fundusforge.annotate.segmenter import known_patients
from fundusforge.audit.digests import digests
from fundusforge.audit.findings import AUDIT, Audit, Finding, Likeness, read_audit
from fundusforge.audit.gate import gate
from fundusforge.audit.parents import known_parents, read_mark
from fundusforge.audit.quarantine import quarantine
from fundusforge.audit.release import RELEASE, SUMS, ReleaseConfig, release, verify
from fundusforge.audit.sets import described, joined
from fundusforge.audit.stage import QUARANTINE
from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.stage import summary
from fundusforge.images import SYNTHETIC_XMP, read_image, write_image
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.records import METADATA, DatasetError, read_folder, write_metadata
from fundusforge.sample.painter import Painter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.training.checkpoint import Clock, save_model

Folder = Callable[..., Path]
TINY = Pix2PixConfig(size=64, widths=(4, 8, 8), code=False, scales=1, discriminator_widths=(4, 8))


def trained(run: Path, train: Path, **facts: object) -> Path:
    """A run whose model says that it has learnt from a folder."""
    torch.manual_seed(1)
    run.mkdir()
    records = read_folder(train)
    extra = {
        "terms": ["drawn: CC BY 4.0"], "sources": ["drawn"], "figures": {"l1": 0.1},
        "patients": sorted(known_patients(record.patient for record in records)),
    } | facts  # fmt: skip
    save_model(
        run / "model.safetensors",
        TINY.build().nets,
        config_json=to_json(TINY),
        clock=Clock(images=7),
        extra=extra,
    )
    settings = {"version": "0", "model": {}, "loop": {"batch": 4, "seed": 0}, "data": {"train": len(records)}}
    (run / "config.json").write_text(json.dumps(settings))
    return run


def _finding(image: str, neighbour: str, *, copied: bool) -> Finding:
    excess = 5.0 if copied else 0.1 + len(image) / 100
    nearest = Likeness(test="pixels", value=0.9, p=0.01, excess=excess, neighbour=neighbour)
    return Finding(
        image=image, verdict="copy" if copied else "clear", p=0.01, neighbour=neighbour, likeness=(nearest,)
    )


class Made:
    """Folders of one test: real ones, a run, its images, and their audit."""

    more: tuple[Path, ...] = ()
    """Further training folders."""

    def __init__(self, root: Path, train: Path, holdout: Path) -> None:
        self.root, self.train, self.holdout = root, train, holdout
        self.run = trained(root / "painter", train)
        self.synthetic = root / "synthetic"
        list(sample(Painter.load(self.run), self.synthetic, SampleConfig(count=5, seed=3)))

    def audited(self, *copies: str) -> Audit:
        """An audit as the stage would write it, of which these images are copies of a training image."""
        out = self.root / "audit"
        out.mkdir(exist_ok=True)
        folders = (self.synthetic, self.train, *self.more, self.holdout)
        sets = [ImageSet(folder=folder, records=read_folder(folder)) for folder in folders]
        neighbour = sets[1].records[0].image
        found = Audit(
            synthetic=summary(sets[0], out), train=described(joined(sets[1:-1]), out),
            holdout=described(joined(sets[-1:]), out),
            level=0.01, bar=2.0, chance=(), figures=(), warnings=(), settings={"train_splits": []},
            command=f"fundusforge audit {self.synthetic}", version="0",
            findings=tuple(
                replace(
                    _finding(r.image, neighbour, copied=r.image in copies),
                    sha256=digests(self.synthetic, r),
                )
                for r in sets[0].records
            ),
        )  # fmt: skip
        found.write(out / AUDIT)
        return found

    def config(self, **settings: object) -> ReleaseConfig:
        given = {
            "synthetic": self.synthetic, "audit": self.root / "audit", "out": self.root / "released",
            "models": (self.run,), "draws": 100,
        }  # fmt: skip
        return ReleaseConfig(**given | settings)

    def edited(self, **changes: object) -> None:
        """Change the records and audit what came of it."""
        write_metadata(self.synthetic, [replace(r, **changes) for r in read_folder(self.synthetic)])
        self.audited()

    def with_audit(self, change: Callable[[Audit], Audit]) -> None:
        path = self.root / "audit" / AUDIT
        change(read_audit(path)).write(path)

    def refused(self, **settings: object) -> tuple[str, ...]:
        """Try to release; the reasons, and proof that nothing was written."""
        found = release(self.config(**settings))
        assert found.reasons and not (self.root / "released").exists()
        assert not list(self.root.glob("*.partial"))
        return found.reasons


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, drawn_folder: Folder) -> Made:
    root = tmp_path_factory.mktemp("release")
    train, holdout = (
        shutil.copytree(drawn_folder(12, seed=seed), root / name)
        for name, seed in (("train", 100), ("holdout", 200))
    )
    for folder in (train, holdout):
        write_metadata(folder, [replace(r, split=None, terms="CC BY 4.0") for r in read_folder(folder)])
    made = Made(root, train, holdout)
    made.audited()
    return made


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    """A copy of the folders for one test."""
    root = tmp_path / "made"
    shutil.copytree(template.root, root)
    copy = object.__new__(Made)
    copy.root, copy.train, copy.holdout = root, root / "train", root / "holdout"
    copy.run, copy.synthetic = root / "painter", root / "synthetic"
    return copy


def planted(made: Made, index: int = 1) -> str:
    """Put a training photograph and its masks into a synthetic image's files, marks and all."""
    record, copied = read_folder(made.synthetic)[index], read_folder(made.train)[0]
    own = read_mark(made.synthetic / record.image).text
    text = {f"fundusforge:{key}": value for key, value in own.items()}
    for what, name in record.files().items():
        shutil.copyfile(made.train / copied.files()[what], made.synthetic / name)
    photograph = read_image(made.synthetic / record.image)
    write_image(made.synthetic / record.image, photograph, text=text, xmp=SYNTHETIC_XMP)
    return record.image


def test_a_clean_folder_is_released(made: Made) -> None:
    found = release(made.config())
    out = made.root / "released"
    assert not found.reasons and found.images == 5 and not found.left_out
    records, old = read_folder(out), read_folder(made.synthetic)
    assert [replace(r, terms=None) for r in records] == [replace(r, terms=None) for r in old]
    assert {record.terms for record in records} == {"drawn: CC BY 4.0"} == {found.terms.text}
    for record in records:
        for name in record.files().values():
            assert (out / name).read_bytes() == (made.synthetic / name).read_bytes()
    names = {path.name for path in out.iterdir()}
    assert names == {
        "images", "field_of_view", "vessels", "disc", METADATA, RELEASE, SUMS, "README.md",
        f"model-card-{records[0].provenance.model}.md",
    }  # fmt: skip
    assert verify(out) == []
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "-c", SUMS], cwd=out, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_release_names_no_path_and_no_training_image(made: Made) -> None:
    release(made.config())
    training = {record.image for record in read_folder(made.train)} | {
        r.patient for r in read_folder(made.train)
    }
    for path in (made.root / "released").rglob("*"):
        if path.suffix in {".md", ".json", ".jsonl"} or path.name == SUMS:
            text = path.read_text("utf-8")
            assert str(made.root) not in text and "train/" not in text
            assert not [name for name in training if re.search(rf"(?<![\w/]){re.escape(name)}", text)
                        and name not in {r.image for r in read_folder(made.synthetic)}]  # fmt: skip


def test_the_same_input_gives_the_same_bytes(made: Made) -> None:
    release(made.config())
    release(made.config(out=made.root / "again" / "released"))
    first, second = made.root / "released", made.root / "again" / "released"
    assert (first / SUMS).read_bytes() == (second / SUMS).read_bytes()


def test_a_memorised_image_is_left_out(made: Made) -> None:
    image = "images/000001.png"
    made.audited(image)
    found = release(made.config())
    assert not found.reasons and found.images == 4 and found.left_out == {image: "copy"}
    assert image not in {record.image for record in read_folder(made.root / "released")}
    assert not (made.root / "released" / image).exists() and verify(made.root / "released") == []


def test_a_quarantined_folder_is_the_folder_that_was_audited(made: Made) -> None:
    image = "images/000001.png"
    made.audited(image)
    quarantine(made.synthetic, [image], made.root / "audit" / QUARANTINE)
    made.with_audit(lambda found: replace(found, quarantined=(image,)))
    found = release(made.config())
    assert not found.reasons and found.images == 4 and found.left_out == {image: "copy"}
    shutil.rmtree(made.root / "released")
    records = read_folder(made.synthetic)
    write_metadata(made.synthetic, [replace(records[0], grade=2), *records[1:]])
    assert "another folder" in made.refused()[0]


def test_all_images_memorised_is_refused(made: Made) -> None:
    made.audited(*(record.image for record in read_folder(made.synthetic)))
    assert any("0 images kept" in reason for reason in made.refused())


def test_an_audit_of_another_folder_is_refused(made: Made) -> None:
    records = read_folder(made.synthetic)
    write_metadata(made.synthetic, records[::-1])
    (reason,) = made.refused()
    assert reason.startswith("audit:") and "another folder" in reason


def test_an_audit_that_left_images_out_is_refused(made: Made) -> None:
    made.with_audit(lambda found: replace(found, findings=found.findings[1:]))
    audit, pictures = made.refused()
    assert "did not look at 1 images: images/000000.png" in audit
    assert pictures.startswith("pictures: 1 images") and "images/000000.png (image, " in pictures


def test_a_picture_swapped_after_the_audit_is_refused_although_its_marks_are_intact(made: Made) -> None:
    image = planted(made)
    assert read_mark(made.synthetic / image).faults(read_folder(made.synthetic)[1].provenance.model) == []
    (reason,) = made.refused()
    assert reason.startswith("pictures: 1 images") and f"{image} (image, vessels, disc" in reason
    made.audited(image)  # looked at anew, it is a copy, and left out
    assert release(made.config()).left_out == {image: "copy"}


def test_every_swapped_mask_is_named(made: Made) -> None:
    records = read_folder(made.synthetic)
    for record in records[1:]:
        shutil.copyfile(made.synthetic / records[0].masks["vessels"].path,
                        made.synthetic / record.masks["vessels"].path)  # fmt: skip
    (reason,) = made.refused()
    assert all(f"{record.image} (vessels)" in reason for record in records[1:])
    assert records[0].image not in reason


def test_an_audit_without_digests_proves_nothing(made: Made) -> None:
    made.with_audit(
        lambda found: replace(found, findings=tuple(replace(f, sha256={}) for f in found.findings))
    )
    (reason,) = made.refused()
    assert reason.startswith("pictures: 5 images")


def test_a_picture_swapped_between_gate_and_copy_is_not_released(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(*given: object, **settings: object) -> object:
        found = gate(*given, **settings)  # type: ignore[arg-type]
        planted(made)
        return found

    monkeypatch.setattr("fundusforge.audit.release.gate", swapped)
    with pytest.raises(DatasetError, match=r"000001\.png: changed since the audit"):
        release(made.config())
    assert not (made.root / "released").exists() and not list(made.root.glob("*.partial"))


def test_images_painted_on_a_patients_mask_are_refused(made: Made) -> None:
    made.edited(structure_from_patient=True)
    (reason,) = made.refused()
    assert reason.startswith("structure:") and "biometric" in reason


def test_a_file_remembers_what_the_metadata_deny(made: Made) -> None:
    record = read_folder(made.synthetic)[0]
    path = made.synthetic / record.image
    text = {f"fundusforge:{key}": value for key, value in read_mark(path).text.items()}
    text["fundusforge:structure_from_patient"] = "true"
    write_image(path, read_image(path), text=text, xmp=SYNTHETIC_XMP)
    made.audited()
    (reason,) = made.refused()
    assert "images/000000.png" in reason and "biometric" in reason


@pytest.mark.parametrize(
    ("text", "xmp", "said"),
    [
        ({}, None, "PNG text"),
        ({"fundusforge:synthetic": "true"}, None, "trainedAlgorithmicMedia"),
        ({}, SYNTHETIC_XMP, "fundusforge:synthetic"),
        ({"fundusforge:synthetic": "false"}, SYNTHETIC_XMP, "fundusforge:synthetic"),
        ({"fundusforge:synthetic": "true", "fundusforge:model": "other"}, SYNTHETIC_XMP, "the file names"),
        (
            {"fundusforge:synthetic": "true"},
            SYNTHETIC_XMP.replace("trainedAlgorithmicMedia", "digitalCapture"),
            "trainedAlgorithmicMedia",
        ),
        (
            {"fundusforge:synthetic": "true"},
            SYNTHETIC_XMP.replace("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"),
            "trainedAlgorithmicMedia",
        ),
    ],
)
def test_a_missing_mark_is_refused(made: Made, text: dict[str, str], xmp: str | None, said: str) -> None:
    path = made.synthetic / read_folder(made.synthetic)[2].image
    write_image(path, read_image(path), text=text, xmp=xmp)
    made.audited()
    (reason,) = made.refused()
    assert reason.startswith("marks: 1 images") and "000002.png" in reason and said in reason


def test_images_that_do_not_say_synthetic_are_refused(made: Made) -> None:
    made.edited(synthetic=False)
    (reason,) = made.refused()
    assert "5 images lack marks" in reason and "do not say synthetic" in reason


def test_an_unknown_parent_is_refused(made: Made) -> None:
    reasons = made.refused(models=())
    assert len(reasons) == 1 and "neither embedded nor named" in reasons[0]


def test_images_without_provenance_are_refused(made: Made) -> None:
    made.edited(provenance=None)
    assert any("no provenance" in reason for reason in made.refused())


@pytest.mark.parametrize("lacking", ["terms", "patients"])
def test_a_parent_that_does_not_say_what_it_learnt_from_is_refused(
    template: Made, tmp_path: Path, lacking: str
) -> None:
    root = tmp_path / "silent"
    shutil.copytree(template.train, root / "train")
    made = Made.__new__(Made)
    made.root, made.train, made.holdout = root, root / "train", template.holdout
    made.run = trained(root / "painter", made.train, **{lacking: []})
    made.synthetic = root / "synthetic"
    list(sample(Painter.load(made.run), made.synthetic, SampleConfig(count=2, seed=3)))
    made.audited()
    assert any(f"does not say the {lacking}" in reason for reason in made.refused())


def test_an_audit_against_other_images_than_the_model_learnt_from_is_refused(made: Made) -> None:
    made.train, made.holdout = made.holdout, made.train
    made.audited()
    (reason,) = made.refused()
    assert reason == ("training data: the audit did not look at 6 of 6 patients that the models learnt from")


def test_training_folders_that_moved_or_changed(made: Made) -> None:
    moved = made.train.rename(made.root / "elsewhere")
    (reason,) = made.refused()
    assert "name it with --train" in reason
    write_metadata(moved, read_folder(moved)[1:])
    (reason,) = made.refused(train=[moved])
    assert "has changed since" in reason
    shutil.rmtree(moved)


def test_a_release_of_a_generator_that_learnt_from_two_folders(made: Made) -> None:
    """The folders that were audited, in any order and wherever they are now; the terms are those of both."""
    made.more = (shutil.copytree(made.holdout, made.root / "second"),)
    records = read_folder(made.more[0])
    write_metadata(made.more[0], [replace(r, source="second", terms="CC BY-NC 4.0") for r in records])
    made.audited()
    (reason,) = made.refused(train=[made.train])
    assert reason == "training data: 1 of 2 audited training folders are not among those named by --train"
    (reason,) = made.refused(at_most="attribution")
    assert reason.startswith("terms: stricter than attribution: non-commercial")
    moved = made.train.rename(made.root / "elsewhere")
    assert "name it with --train" in made.refused()[0]
    found = release(made.config(train=[made.more[0], moved]))
    assert not found.reasons
    assert set(found.terms.entries) == {"drawn: CC BY 4.0", "second: CC BY-NC 4.0"}
    (card,) = (made.root / "released").glob("model-card-*.md")
    assert "24 training images of 12 patients (drawn, second)" in card.read_text()


def test_a_proven_leak_is_refused_and_an_unproven_one_is_not(made: Made) -> None:
    def leaking(low: float) -> Callable[[Audit], Audit]:
        figure = Figure(
            name="membership_features_advantage", title="Area above the control's", value=0.3, low=low,
            high=0.5, n=5, extractor="none", resize="none", seed=0,
        )  # fmt: skip
        return lambda found: replace(found, figures=(figure,))

    made.with_audit(leaking(0.1))
    (reason,) = made.refused()
    assert reason.startswith("membership: training patients can be told") and "0.3 [0.1, 0.5]" in reason
    assert not release(made.config(tolerance=0.2)).reasons
    shutil.rmtree(made.root / "released")
    made.with_audit(leaking(-0.1))
    assert not release(made.config()).reasons


def test_the_strictest_terms_are_inherited(template: Made, tmp_path: Path) -> None:
    root = tmp_path / "strict"
    shutil.copytree(template.train, root / "train")
    made = Made.__new__(Made)
    made.root, made.train, made.holdout = root, root / "train", template.holdout
    terms = ["a: CC BY 4.0", "b: research and education only", "c: free of patients; CC0"]
    made.run = trained(root / "painter", made.train, terms=terms)
    made.synthetic = root / "synthetic"
    list(sample(Painter.load(made.run), made.synthetic, SampleConfig(count=2, seed=3)))
    made.audited()
    (reason,) = made.refused(at_most="attribution")
    assert reason.startswith("terms: stricter than attribution: research")
    made.edited(terms="CC0")  # a looser word in the records changes nothing
    found = release(made.config(at_most="research"))
    assert found.terms.level == "research"
    assert set(found.terms.entries) == {*terms, "drawn: CC BY 4.0", "CC0"}
    for record in read_folder(root / "released"):
        assert record.terms == "; ".join(("CC0", *terms, "drawn: CC BY 4.0"))


def test_every_fault_is_listed_at_once(made: Made) -> None:
    made.edited(structure_from_patient=True, terms=None)
    names = [reason.partition(":")[0] for reason in made.refused(models=(), at_most="public")]
    assert names == ["structure", "parents", "terms"]


def test_wrong_use_is_said(made: Made) -> None:
    (made.root / "released").mkdir()
    (made.root / "released" / "something").write_text("of value")
    with pytest.raises(DatasetError, match="exists already"):
        release(made.config())
    assert (made.root / "released" / "something").read_text() == "of value"
    with pytest.raises(DatasetError, match=r"audit\.json: no such file"):
        release(made.config(audit=made.root / "absent", out=made.root / "new"))
    with pytest.raises(DatasetError, match="not a folder"):
        release(made.config(synthetic=made.root / "absent", out=made.root / "new"))
    with pytest.raises(ValueError, match="tolerance"):
        made.config(tolerance=0.7)


def test_nothing_is_left_behind_when_the_disk_is_full(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()}
    monkeypatch.setattr("fundusforge.audit.release._write_cards", full)
    with pytest.raises(OSError, match="space"):
        release(made.config())
    assert {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()} == before
    assert not (made.root / "released").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda out: (out / "images/000000.png").write_bytes(b"x"), "images/000000.png: changed"),
        (lambda out: (out / "vessels/000001.png").unlink(), "vessels/000001.png: missing"),
        (
            lambda out: (out / "images/patient.png").write_bytes(b"x"),
            "images/patient.png: not of this release",
        ),
        (lambda out: (out / "README.md").write_text("mine"), "README.md: changed"),
        (lambda out: (out / SUMS).write_text("broken"), "SHA256SUMS:1: not a hash"),
    ],
)
def test_what_changes_a_release_is_noticed(made: Made, harm: Callable[[Path], object], said: str) -> None:
    release(made.config())
    harm(made.root / "released")
    assert any(said in fault for fault in verify(made.root / "released"))


def test_marks_are_checked_even_where_hashes_were_made_anew(made: Made) -> None:
    """Someone strips the marks and writes new sums: the hashes fit, and the marks still do not."""
    out = made.root / "released"
    release(made.config())
    image = out / "images/000000.png"
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    write_image(image, read_image(image))
    after = hashlib.sha256(image.read_bytes()).hexdigest()
    (out / SUMS).write_text((out / SUMS).read_text().replace(before, after))
    (fault,) = verify(out)
    assert fault.startswith("images/000000.png: its XMP")


def test_a_folder_that_is_no_release_cannot_be_verified(made: Made) -> None:
    with pytest.raises(DatasetError, match="no release"):
        verify(made.synthetic)


def test_the_command_line(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "release",
        str(made.synthetic),
        "--audit",
        str(made.root / "audit"),
        "--out",
        str(made.root / "released"),
    ]
    assert main([*words, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert "parents" in printed.out and "FAILED" in printed.out and "refused: parents" in printed.err
    assert main([*words, "--models", str(made.run), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((made.root / "released" / RELEASE).read_text()) and told["schema"] == 1
    assert main(["release", "--verify", str(made.root / "released")]) == 0
    (made.root / "released/images/000000.png").unlink()
    assert main(["release", "--verify", str(made.root / "released"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["faults"]
    assert main(words) == 2, "it exists"
    assert main(["release"]) == 2 and main(words[:2]) == 2
    assert main([*words, "--verify", str(made.root)]) == 2
    assert main(["release", "--verify", str(made.synthetic)]) == 2


@pytest.mark.slow
def test_the_stages_own_audit_leads_to_a_release_without_the_copy(made: Made) -> None:
    """A photograph among the images, a real audit with quarantine by the command line, and the gate."""
    shutil.rmtree(made.root / "audit")
    image = planted(made)
    audit = ["audit", str(made.synthetic), "--train", str(made.train), "--holdout", str(made.holdout)]
    assert main([*audit, "--out", str(made.root / "audit"), "--quarantine", "--quiet", "--draws", "100"]) == 1
    assert image not in {record.image for record in read_folder(made.synthetic)}
    found = release(made.config())
    assert not found.reasons and found.left_out == {image: "copy"} and verify(made.root / "released") == []


@pytest.mark.slow
def test_a_missing_audit_is_made_first(made: Made) -> None:
    shutil.rmtree(made.root / "audit")
    words = ["release", str(made.synthetic), "--audit", str(made.root / "audit"), "--models", str(made.run)]
    words += ["--out", str(made.root / "released"), "--quiet"]
    assert main(words) == 2, "no audit, and nothing to make one with"
    assert main([*words, "--train", str(made.train), "--holdout", str(made.holdout)]) == 0
    figures = {figure.name for figure in read_audit(made.root / "audit" / AUDIT).figures}
    assert "membership_pixels_advantage" in figures
    assert verify(made.root / "released") == []


def test_embedded_models_are_known_and_say_what_they_learnt_from() -> None:
    known = known_parents(())
    painter = next(parent for parent in known.values() if parent.name.startswith("painter-512"))
    assert painter.terms and painter.patients and painter.sources and painter.card
    assert np.all([re.fullmatch(r"[0-9a-f]{12}", digits) for digits in known])
