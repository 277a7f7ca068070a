"""Identifiers planted everywhere in a DICOM file leave no trace in anything that `prepare` writes or says.

Tokens stand in every text element of the standard's dictionary, in sequences, private elements, file meta
information, the preamble, the JPEG inside and the name of the file and its folders; and they are burned into
the corners outside the field of view.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from fundusforge.cli import main
from fundusforge.images import read_image
from fundusforge.prepare.patients import VARIABLE
from fundusforge.records import read_folder

KEY = "a key for tests only"
MARK = "ZQX"  # begins every textual token; stands nowhere else
DIGITS = "9021044"  # ends every numeric token
KEPT = {"ManufacturerModelName", "ImageLaterality", "PatientAge", "PatientSex"}
"""What may be kept. Besides them only the order of visits and a keyed hash of the patient."""
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
Draw = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def _patient_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


def token(vr: str, number: int) -> str | None:
    """A value of this representation that is told from any other; None where text does not fit."""
    text = f"{MARK}{number:05d}"
    if vr == "PN":
        return f"{text}^Jane{MARK}^^Dr"
    if vr in {"LO", "SH", "LT", "ST", "UT", "UC", "AE", "CS"}:
        return text
    if vr == "UR":
        return f"https://{text}.example"
    if vr == "UI":
        return f"1.2.826.0.1.{DIGITS}.{number + 1}"
    if vr == "DA":
        return f"{1890 + number % 130}{1 + number % 12:02d}{1 + number % 28:02d}"
    if vr == "DT":
        return f"19{number % 100:02d}0317104713.{number:06d}"
    if vr == "TM":
        return f"0{number % 10}4713.{number:06d}"
    if vr == "AS":
        return f"{number % 89:03d}Y"
    if vr == "IS":
        return f"{DIGITS}{number:05d}"
    if vr == "DS":
        return f"{DIGITS}.{number:05d}"
    return None


CODING = {
    "SpecificCharacterSet", "PhotometricInterpretation", "NumberOfFrames", "PixelAspectRatio",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "LossyImageCompression", "PresentationLUTShape", "SOPClassUID", "PixelPresentation",
    "FrameIncrementPointer", "LengthToEnd",
}  # fmt: skip
"""Elements that say how pixels are coded; foreign values would only make the file unreadable."""


def planted(
    *, jpeg: bytes | None, pixels: np.ndarray, model: str = "TRC-NW400"
) -> tuple[FileDataset, set[str]]:
    """A DICOM image with a token in every element that can hold one, and the set of tokens."""
    syntax = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.5.1")  # ophthalmic photography, 8 bit
    meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.0.1.{DIGITS}.777")
    meta.TransferSyntaxUID = syntax
    meta.SourceApplicationEntityTitle = f"{MARK}META"
    meta.ImplementationVersionName = f"{MARK}VERSION"
    meta.PrivateInformationCreatorUID = UID(f"1.2.826.0.1.{DIGITS}.778")
    meta.PrivateInformation = f"{MARK}PRIVATE ".encode()
    dataset = FileDataset("", {}, file_meta=meta, preamble=f"{MARK}PREAMBLE".encode().ljust(128, b"\0"))
    tokens = {f"1.2.826.0.1.{DIGITS}.777", f"1.2.826.0.1.{DIGITS}.778"}
    for number, (tag, (vr, _, _, retired, keyword)) in enumerate(sorted(DicomDictionary.items())):
        group = tag >> 16
        if group <= 2 or group >= 0x7FE0 or keyword in CODING | KEPT or not keyword or retired:
            continue
        if (value := token(vr, number)) is not None:
            dataset.add_new(tag, vr, value)
            # Short ages and single dates stand in any data by chance; longer tokens do not.
            tokens |= {value} if vr not in {"AS"} else set()
    inner = Dataset()
    inner.PatientName, inner.PatientID = f"{MARK}SEQ^Inner", f"{MARK}SEQID"
    inner.StudyDate = "18840229"
    dataset.ReferencedPatientSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([inner])
    block = dataset.private_block(0x0011, f"{MARK} CREATOR", create=True)
    block.add_new(0x01, "LO", f"{MARK}PRIVATEVALUE")
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.ManufacturerModelName, dataset.ImageLaterality = model, "L"
    dataset.PatientAge, dataset.PatientSex = "063Y", "F"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PixelRepresentation = 3, 0, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
    dataset.PixelData = encapsulate([jpeg]) if jpeg else pixels.tobytes()
    return dataset, tokens | {"18840229"}


def burned(image: np.ndarray) -> np.ndarray:
    """The photograph with text in all four corners, as some cameras burn it in."""
    image = image.copy()
    side = image.shape[0]
    for place in ((2, 22), (2, side - 6), (side - 66, 22), (side - 66, side - 6)):
        cv2.putText(image, "ZQX", place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    return image


def carrying(image: np.ndarray) -> bytes:
    """A JPEG with tokens in its comment and EXIF."""
    exif = Pillow.Exif()
    exif[0x013B], exif[0x010E], exif[0x0132] = f"{MARK}ARTIST", f"{MARK}DESCRIPTION", "1884:02:29 10:11:12"
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "JPEG", quality=95, exif=exif, comment=f"{MARK}COMMENT")
    return stream.getvalue()


def store(dataset: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    return path


def chunks(png: bytes) -> Iterator[tuple[str, bytes]]:
    """What stands in a PNG, unpacked: the pixels, and every other chunk as it is and decompressed."""
    place, pixels = 8, b""
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            pixels += body
        else:
            yield f"chunk {place}", kind + body
            for start in range(len(body) if kind in {b"zTXt", b"iTXt", b"iCCP", b"eXIf"} else 0):
                try:
                    yield f"chunk {place} unpacked", zlib.decompress(body[start:])
                except zlib.error:
                    continue
        place += 12 + length
    yield "pixels", zlib.decompress(pixels)


def traces(folder: Path, said: str, tokens: set[str]) -> list[str]:
    """Where any token, or an unkeyed digest of one, stands in what was written or said."""
    data = {"(said)": said.encode("utf-8")}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        data[f"(name of {name})"] = name.encode("utf-8", "surrogateescape")
        if path.is_file():
            data[name] = path.read_bytes()
            if path.suffix == ".png":
                data |= {f"{name}[{what}]": body for what, body in chunks(data[name])}
    plain = {MARK.lower().encode(), DIGITS.encode(), *(text.lower().encode() for text in tokens)}
    needles = set(plain)
    for text in tokens:
        raw = text.encode()
        needles |= {base64.b64encode(raw).lower(), raw.hex().encode()}
        needles |= {hashlib.new(kind, raw).hexdigest()[:12].encode() for kind in ("md5", "sha1", "sha256")}
    found = []
    for where, body in data.items():
        # Pixels are no text: eight or fewer of their bytes may spell anything by chance.
        pixels = where.endswith((".png", ".jpg", "[pixels]"))
        chosen = {needle for needle in plain if len(needle) > 8} if pixels else needles
        body = body.lower()
        found += [f"{needle!r} in {where}" for needle in chosen if needle in body]
    return found


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(source: Path, out: Path, *more: object) -> tuple[int, str]:
        capfd.readouterr()
        words = ["prepare", source, "--format", "dicom", "--size", 128, "--out", out, *more]
        code = main([str(word) for word in words])
        said = capfd.readouterr()
        return code, said.out + said.err

    return call


NAMES = f"{MARK}DOE Jane/1884-02-29/{MARK}DOE^JANE {DIGITS}.dcm"


def test_the_plan_is_thorough(fundus: Draw) -> None:
    """The file really holds a thousand tokens of every textual kind, and the search finds what is there."""
    dataset, tokens = planted(jpeg=None, pixels=fundus(300)["image"])
    kinds = {element.VR for element in dataset if str(element.value) in tokens}
    assert kinds >= {"PN", "LO", "SH", "LT", "ST", "UT", "UI", "CS", "AE", "IS", "DS", "DA", "TM", "DT"}
    assert len(tokens) > 1500
    for name in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "StudyDate",
        "StudyInstanceUID",
        "InstitutionName",
    ):
        assert str(dataset[name].value) in tokens


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    secret = f"{MARK}00001"
    (tmp_path / "a.json").write_text(json.dumps({"p": hashlib.sha256(secret.encode()).hexdigest()}))
    assert len(traces(tmp_path, "", {secret})) == 1
    assert not traces(tmp_path / "none", "", {secret})
    assert traces(tmp_path / "none", f"cannot read {secret.lower()}", {secret})
    body = b"zTXt" + b"key\0\0" + zlib.compress(secret.encode())
    image = cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "a.json").unlink()
    (tmp_path / "b.png").write_bytes(image[:33] + chunk + image[33:])
    assert traces(tmp_path, "", {secret})


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "jpeg"])
@pytest.mark.parametrize("out_form", ["png", "jpeg"])
def test_no_trace_of_a_kept_image(
    compressed: bool, out_form: str, told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path
) -> None:
    image = burned(fundus(400, seed=1)["image"])
    dataset, tokens = planted(jpeg=carrying(image) if compressed else None, pixels=image)
    store(dataset, tmp_path / "in" / NAMES)
    code, said = told(tmp_path / "in", tmp_path / "out", "--image-format", out_form)
    assert code == 0, said
    (record,) = read_folder(tmp_path / "out")
    assert (record.camera, record.eye, record.age, record.sex) == ("TRC-NW400", "left", 63, "female")
    assert not traces(tmp_path / "out", said, tokens)
    prepared = read_image(tmp_path / "out" / record.image)
    inside = cv2.imread(str(tmp_path / "out" / str(record.field_of_view)), cv2.IMREAD_UNCHANGED)
    outside = prepared[inside == 0]
    assert len(outside) > 0.15 * prepared[..., 0].size
    assert outside.max() == 0 if out_form == "png" else outside.max() < 60  # JPEG rings at the rim
    corner = prepared[:12, :12]
    assert corner.max() == 0 if out_form == "png" else corner.max() < 8


def test_a_camera_name_that_holds_an_identifier_is_dropped(
    told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path
) -> None:
    image = fundus(400, seed=1)["image"]
    _, tokens = planted(jpeg=None, pixels=image)
    for number, model in enumerate([f"NW400 {MARK}00013", f"Jane{MARK}", "CR-2 19990101", "CR2 Doe^Jane"]):
        dataset, _ = planted(jpeg=None, pixels=fundus(400, seed=number)["image"], model=model)
        dataset.PatientName = f"Doe^Jane{MARK}"
        dataset.OperatorsName = f"{MARK}00013"
        store(dataset, tmp_path / "in" / f"{number}.dcm")
    code, said = told(tmp_path / "in", tmp_path / "out")
    assert code == 0, said
    assert [record.camera for record in read_folder(tmp_path / "out")] == [None] * 4
    assert not traces(tmp_path / "out", said, tokens | {"19990101", "Jane"})


def _no_pixels(dataset: FileDataset) -> None:
    del dataset.PixelData


def _short_pixels(dataset: FileDataset) -> None:
    dataset.PixelData = dataset.PixelData[:1000]


def _frames(dataset: FileDataset) -> None:
    dataset.add_new("NumberOfFrames", "LO", f"{MARK}FRAMES")


def _dark(dataset: FileDataset) -> None:
    dataset.PixelData = b"\0" * len(dataset.PixelData)


def _colours(dataset: FileDataset) -> None:
    dataset.PhotometricInterpretation = f"{MARK}COLOURS"


def _charset(dataset: FileDataset) -> None:
    dataset.SpecificCharacterSet = f"{MARK}CHARSET"


def _rows(dataset: FileDataset) -> None:
    dataset.Rows = 0


REJECTED = {
    "no pixels": _no_pixels, "short pixels": _short_pixels, "frames": _frames, "dark": _dark,
    "colours": _colours, "rows": _rows,
}  # fmt: skip


@pytest.mark.parametrize("fault", REJECTED)
def test_no_trace_of_a_rejected_image(
    fault: str, told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path
) -> None:
    good, more = planted(jpeg=None, pixels=fundus(300, seed=2)["image"])
    store(good, tmp_path / "in" / MARK / "good.dcm")
    bad, tokens = planted(jpeg=None, pixels=fundus(300, seed=1)["image"])
    REJECTED[fault](bad)
    store(bad, tmp_path / "in" / NAMES)
    code, said = told(tmp_path / "in", tmp_path / "out")
    assert code == 0, said
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert len(row["reason"]) > 5
    digest = hashlib.sha256((tmp_path / "in" / NAMES).read_bytes()).hexdigest()
    assert digest[:16] in row["file"], "a person with the originals can find the file again"
    assert not traces(tmp_path / "out", said, tokens | more)


def test_no_trace_of_files_that_are_cut_or_no_dicom(
    told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path
) -> None:
    good, tokens = planted(jpeg=None, pixels=fundus(300, seed=2)["image"])
    whole = store(good, tmp_path / "in" / "good.dcm").read_bytes()
    folder = (tmp_path / "in" / NAMES).parent
    folder.mkdir(parents=True)
    for number, data in enumerate((whole[:5000], whole[:-50_000], b"", f"{MARK}TEXT".encode(), whole[:140])):
        (folder / f"{MARK}{number}.dcm").write_bytes(data)
    code, said = told(tmp_path / "in", tmp_path / "out")
    assert code == 0, said
    rows = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert len(rows) == 5
    assert not traces(tmp_path / "out", said, tokens)


def test_no_trace_where_nothing_passes(
    told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path
) -> None:
    bad, tokens = planted(jpeg=None, pixels=fundus(300)["image"])
    _short_pixels(bad)
    store(bad, tmp_path / "in" / NAMES)
    code, said = told(tmp_path / "in", tmp_path / "out")
    assert code == 2
    assert "no picture passed" in said
    assert not traces(tmp_path / "out", said, tokens)


def test_odd_character_sets_and_the_journal_of_a_killed_run(
    told: Callable[..., tuple[int, str]], fundus: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted run leaves behind holds no identifier either."""
    from fundusforge.prepare import stage

    tokens: set[str] = set()
    for seed in range(2):
        dataset, more = planted(jpeg=None, pixels=fundus(300, seed=seed)["image"])
        _charset(dataset)
        tokens |= more
        store(dataset, tmp_path / "in" / f"{MARK}{seed}.dcm")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_finish", killed)
    code, said = told(tmp_path / "in", tmp_path / "out")
    assert code == 130
    assert (tmp_path / "out" / ".journal.jsonl").exists()
    assert not traces(tmp_path / "out", said, tokens)


def test_hidden_names_and_metadata_of_plain_pictures(
    fundus: Draw, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in" / f"{MARK}DOE"
    folder.mkdir(parents=True)
    (folder / f"{MARK} Jane.jpg").write_bytes(carrying(burned(fundus(300, seed=1)["image"])))
    (folder / f"{MARK} broken.jpg").write_bytes(carrying(fundus(300, seed=2)["image"])[:9000])
    words = ["prepare", tmp_path / "in", "--format", "folder", "--size", 128, "--source.hide-names"]
    assert main([str(word) for word in [*words, "--out", tmp_path / "out"]]) == 0
    said = capfd.readouterr()
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 1
    assert not traces(tmp_path / "out", said.out + said.err, {f"{MARK}ARTIST", "1884:02:29 10:11:12"})
