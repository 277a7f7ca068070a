"""DICOM: what reaches an item, what must not, and pixels equal to pydicom's."""

import io
import warnings
from pathlib import Path

import cv2
import layouts
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    MPEG2MPML,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from fundusforge.records import DatasetError
from fundusforge.sources import Item, Reject, Unreadable
from fundusforge.sources.dicom import Dicom, read_age
from fundusforge.sources.dicom_pixels import _decode_jpeg, decode, load_frame, parse


def make(pixels: np.ndarray, *, frames: list[bytes] | None = None, **elements: object) -> Dataset:
    """Build a file: native RGB or grey `pixels`, or encapsulated baseline JPEG `frames`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if frames else ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = encapsulate(frames) if frames else pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if frames or pixels.dtype == np.uint8 else "OW"
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return path


def read(root: Path, **options: object) -> tuple[list[Item], list[Reject]]:
    found = list(Dicom(root=root, **options).items())  # type: ignore[arg-type]
    return [t for t in found if isinstance(t, Item)], [t for t in found if isinstance(t, Reject)]


def jpeg(pixels: np.ndarray, *, subsampling: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92, subsampling=subsampling)
    return stream.getvalue()


# What is kept, and what is not


def test_only_a_few_elements_are_kept(tmp_path: Path) -> None:
    header = {
        "PatientID": "77", "PatientAge": "063Y", "PatientSex": "F", "ImageLaterality": "R",
        "StudyDate": "20200301", "Manufacturer": "Topcon", "ManufacturerModelName": "Topcon TRC-NW8",
    }  # fmt: skip
    save(make(layouts.draw(), **header), tmp_path / "a.dcm")
    [item], rejects = read(tmp_path)
    assert not rejects
    assert (item.eye, item.age, item.sex, item.visit) == ("right", 63.0, "female", 1)
    assert item.camera == "Topcon TRC-NW8" and item.key.startswith("dcm_")
    assert np.array_equal(item.load(), layouts.draw())


def plant(dataset: Dataset) -> list[str]:
    """Put a different secret into every text, name, identifier, date and number that the standard knows."""
    from pydicom.datadict import DicomDictionary

    secrets, kept = [], {0x00080005, 0x00080016, 0x00280004}
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        if not keyword or tag in kept or tag >> 16 in (0x0000, 0x0002, 0x0004, 0x0028, 0x7FE0, 0xFFFE):
            continue
        number = f"{tag:08x}"
        word = f"Secret{number}"
        value = {
            "PN": f"{word}^Anna", "CS": word.upper(), "UI": f"1.2.999.{tag}", "DA": "19471103",
            "TM": "031415", "DT": "19471103031415", "AS": "071Y", "UR": f"http://{word}.example",
            **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "AE"), word),
        }.get(vr)  # fmt: skip
        if value is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset.add_new(tag, vr, value)
            secrets.append(value)
    assert len(secrets) > 1500
    return secrets


def test_identifiers_in_every_field_leave_no_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(layouts.draw())
    secrets = plant(dataset)
    dataset.add_new(0x00091001, "LO", "SecretPrivate")
    name = "Anna Secret 1947-11-03.dcm"
    save(dataset, tmp_path / "Secret Ward" / name)
    broken = save(make(layouts.draw(1), PatientID="Secret2"), tmp_path / "Secret Ward" / "Broken Secret.dcm")
    broken.write_bytes(broken.read_bytes()[:-200])
    headless = make(layouts.draw(2), PatientName="Secret^Beate")
    del headless.PixelData
    save(headless, tmp_path / "Secret Ward" / "No Secret.dcm")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items, rejects = read(tmp_path)
    told = [repr(reject) for reject in rejects] + [str(warning.message) for warning in caught]
    for item in items:
        shown = {
            name: getattr(item, name) for name in item.__dataclass_fields__ if name not in ("load", "patient")
        }
        told.append(repr(shown))
        try:
            assert item.load().shape == (24, 32, 3)
        except Unreadable as error:
            told.append(str(error))
    out = capfd.readouterr()
    text = "\n".join((*told, caplog.text, out.out, out.err)).lower()
    assert len(items) == 2 and len(rejects) == 1 and "truncated or broken" in text
    for trace in ("secret", "anna", "1947", "1103", "0314", "1.2.999", "ward", "beate"):
        assert trace not in text, trace
    kept = items[0] if items[0].age else items[1]
    assert (kept.age, kept.camera) == (71.0, None)
    assert any(secret in kept.patient for secret in secrets), "needed for the keyed hash"


def test_paths_are_shown_when_asked(tmp_path: Path) -> None:
    save(make(layouts.draw()), tmp_path / "ward" / "a.dcm")
    (tmp_path / "ward" / "b.dcm").write_bytes(b"nothing")
    [item], [reject] = read(tmp_path, show_paths=True)
    assert (item.file, reject.file) == (Path("ward/a.dcm"), Path("ward/b.dcm"))
    assert "ward" not in repr(read(tmp_path)[1])


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("CR-2 AF", "CR-2 AF"), ("VISUCAM 500", "VISUCAM 500"), ("Muster, Anna", None),
        ("room of anna", None),
        ("AnnaModel", None), ("4711 camera", None), ("Topcon TRC", "Topcon TRC"),
        ("19470311", None), ("anna@clinic.org", None), ("MUSTER^ANNA", None), ("x" * 60, None),
    ],
)  # fmt: skip
def test_a_model_that_identifies_is_dropped(model: str, kept: str | None, tmp_path: Path) -> None:
    names = {"PatientName": "Muster^Anna", "PatientID": "4711", "StationName": "TOPCON 3"}
    save(make(layouts.draw(), ManufacturerModelName=model, **names), tmp_path / "a.dcm")
    assert read(tmp_path)[0][0].camera == kept


def test_ages() -> None:
    ages = [read_age(text) for text in ("063Y", "018M", "026W", "010D", "095Y", "", "sixty", "63")]
    assert ages == [63.0, 1.5, 0.5, 0.03, 90.0, None, None, None]


# Visits and the chart


def three_visits(root: Path) -> Path:
    for index, (patient, date) in enumerate(
        (("a", "20200501"), ("a", "20190501"), ("a", "20200501"), ("b", ""))
    ):
        dataset = make(layouts.draw(index), PatientID=patient, ImageLaterality="LR"[index % 2])
        dataset.StudyInstanceUID = f"1.2.{index}"
        if date:
            dataset.StudyDate = date
        save(dataset, root / f"{index}.dcm")
    return root


def test_visits_are_ranked_by_date_and_dates_dropped(tmp_path: Path) -> None:
    items, _ = read(three_visits(tmp_path))
    assert [item.visit for item in items] == [2, 1, 2, 1]
    assert len({item.patient for item in items}) == 2
    first, rejects = read(tmp_path, first_visit_only=True)
    assert [item.visit for item in first] == [1, 1] and not rejects


def test_undated_studies_cannot_be_ordered(tmp_path: Path) -> None:
    for index in range(2):
        save(
            make(layouts.draw(index), PatientID="a", StudyInstanceUID=f"1.2.{index}"),
            tmp_path / f"{index}.dcm",
        )
    assert [item.visit for item in read(tmp_path)[0]] == [None, None]
    items, rejects = read(tmp_path, first_visit_only=True)
    assert not items and {reject.reason for reject in rejects} == {
        "no study date, so the order of visits is unknown"
    }


def test_chart_keywords_choose_images(tmp_path: Path) -> None:
    root = three_visits(tmp_path / "dicom")
    chart = layouts.write_csv(
        tmp_path / "chart.csv",
        "patient,date,keywords",
        "a,2020-05-01,ERM",
        "a,2019-05-01,normal",
        "b,,permanent",
    )
    items, _ = read(root, chart=chart, keywords=("erm,epiretinal membrane",))
    assert [(item.visit, item.labels) for item in items] == [(2, ("erm",)), (2, ("erm",))]
    items, _ = read(root, chart=chart, exclude=("erm",), first_visit_only=True)
    assert len(items) == 2
    with pytest.raises(DatasetError, match="none of 4 images is chosen"):
        read(root, chart=chart, keywords=("drusen",))
    with pytest.raises(DatasetError, match="keywords need a chart"):
        read(root, keywords=("erm",))


# Pixels


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("told", ["YBR_FULL", "YBR_FULL_422", "RGB"])
def test_baseline_jpeg_goes_past_pydicom_with_equal_pixels(
    subsampling: int, told: str, tmp_path: Path
) -> None:
    picture = cv2.resize(layouts.draw(), (203, 155), interpolation=cv2.INTER_CUBIC)
    dataset = make(picture, frames=[jpeg(picture, subsampling=subsampling)], PhotometricInterpretation=told)
    path = save(dataset, tmp_path / "a.dcm")
    stored = parse(path.read_bytes())
    assert _decode_jpeg(stored, 0) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pixel_array(pydicom.dcmread(path), decoding_plugin="pillow")
    assert np.array_equal(load_frame(path, 0), expected)


def test_fixed_point_and_float_colour_hardly_differ() -> None:
    """Over every YCbCr triple: what the docstring of `dicom_pixels` says about libjpeg and pydicom."""
    from pydicom.pixels.processing import convert_color_space

    blue, red = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    differing = 0
    for luma in range(256):
        ybr = np.stack([np.full_like(blue, luma), blue, red], -1).astype(np.uint8)
        theirs = convert_color_space(ybr, "YBR_FULL", "RGB").astype(int)
        x, z = red - 128, blue - 128
        fixed = (91881 * x + 32768 >> 16, -22554 * z - 46802 * x + 32768 >> 16, 116130 * z + 32768 >> 16)
        ours = np.clip(luma + np.stack(fixed, -1), 0, 255)
        assert np.abs(ours - theirs).max() <= 1
        wrong = (ours != theirs).any(-1)
        differing += int(wrong.sum())
    assert differing < 18_000


def test_jpeg_without_colour_transform_is_left_to_pydicom(data_root: Path) -> None:
    for name in ("SC_jpeg_no_color_transform.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"):
        data = (data_root / "dicom_rgb" / name).read_bytes()
        assert _decode_jpeg(parse(data), 0) is None
        assert np.array_equal(decode(parse(data), 0), pixel_array(pydicom.dcmread(io.BytesIO(data))))


def test_frames_are_items(tmp_path: Path) -> None:
    pictures = [layouts.draw(seed) for seed in range(3)]
    frames = [jpeg(picture) for picture in pictures]
    told = {"PhotometricInterpretation": "YBR_FULL", "NumberOfFrames": 3}
    save(make(pictures[0], frames=frames, **told), tmp_path / "a")
    items, _ = read(tmp_path)
    assert [item.key[-5:] for item in items] == ["_0001", "_0002", "_0003"]
    for item, frame in zip(items, frames, strict=True):
        assert np.array_equal(item.load(), cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR_RGB))


def grey(**elements: object) -> np.ndarray:
    values = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 4
    return decode(make(values, BitsStored=12, HighBit=11, **elements), 0)[..., 1]


def test_grey_of_sixteen_bits_is_stretched_or_windowed() -> None:
    full = grey()
    assert (full.min(), full.max()) == (0, 255) and (np.diff(full.ravel().astype(int)) >= 0).all()
    assert np.array_equal(grey(PhotometricInterpretation="MONOCHROME1"), 255 - full)
    window = grey(WindowCenter=1000, WindowWidth=401, VOILUTFunction="LINEAR").ravel()
    assert not window[: 800 // 4].any() and (window[1200 // 4 + 1 :] == 255).all()
    assert abs(int(window[250]) - 127) <= 1


def test_colour_of_sixteen_bits_and_palettes() -> None:
    deep = layouts.draw().astype(np.uint16) * 257
    assert np.array_equal(decode(make(deep), 0), layouts.draw())
    index = (layouts.draw()[..., 0] // 16).astype(np.uint8)
    dataset = make(index, PhotometricInterpretation="PALETTE COLOR")
    for place, name in enumerate(("Red", "Green", "Blue")):
        table = (np.arange(16, dtype=np.uint16) * (10 + place)) * 257
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [16, 0, 16])
        dataset[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(dataset, f"{name}PaletteColorLookupTableData", table.tobytes())
    expected = np.stack([index * 10, index * 11, index * 12], -1)
    assert np.array_equal(decode(dataset, 0), expected)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_syntaxes(syntax: str, tmp_path: Path) -> None:
    dataset = make(layouts.draw())
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        stream = io.BytesIO()
        Image.fromarray(layouts.draw()).save(stream, "JPEG2000", no_jp2=True, mct=0)
        dataset = make(layouts.draw(), frames=[stream.getvalue()])
        dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(load_frame(save(dataset, tmp_path / "a.dcm"), 0), layouts.draw())


# What cannot be read


def test_what_is_no_image_is_rejected_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    (tmp_path / "2.dcm").write_bytes(b"\xff\xd8 no DICOM")
    headless = make(layouts.draw())
    del headless.PixelData
    save(headless, tmp_path / "3.dcm")
    good = save(make(layouts.draw()), tmp_path / "4.dcm").read_bytes()
    (tmp_path / "5.dcm").write_bytes(good)
    (tmp_path / "6.dcm").write_bytes(good[:140])
    (tmp_path / "notes.txt").write_text("not looked at")
    items, rejects = read(tmp_path)
    assert len(items) == 1
    assert [reject.reason for reject in rejects] == [
        "empty file (zero bytes)",
        "not a DICOM file (no DICM prefix)",
        "a DICOM file without pixel data",
        f"the same file, byte for byte, as {items[0].key}",
        rejects[-1].reason,
    ]
    assert "DICOM file" in rejects[-1].reason


def truncated_jpeg() -> Dataset:
    frame = jpeg(layouts.draw())
    return make(layouts.draw(), frames=[frame[: len(frame) // 2]], PhotometricInterpretation="YBR_FULL")


def unknown_syntax() -> Dataset:
    dataset = make(layouts.draw(), frames=[b"abcd"])
    dataset.file_meta.TransferSyntaxUID = UID("1.2.3.4.5")
    return dataset


def video() -> Dataset:
    dataset = make(layouts.draw(), frames=[b"abcd"])
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    return dataset


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (truncated_jpeg(), "truncated JPEG frame"),
        (unknown_syntax(), "no decoder is known for an unknown or private transfer syntax"),
        (video(), "video .* is not read"),
        (make(layouts.draw(), Rows=500), "cannot be decoded: truncated or broken"),
        (make(layouts.draw(), PhotometricInterpretation="PALETTE COLOR"), "expected 1 or 3|broken"),
    ],
)
def test_pixels_that_cannot_be_decoded_say_why(dataset: Dataset, reason: str, tmp_path: Path) -> None:
    path = save(dataset, tmp_path / "a.dcm")
    with pytest.raises(Unreadable, match=reason):
        load_frame(path, 0)


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    from pydicom.pixels.decoders.base import Decoder

    data = (data_root / "dicom_rgb" / "JLSL_RGB_ILV0.dcm").read_bytes()
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    monkeypatch.setattr(Decoder, "_validate_plugins", lambda self, plugin="": 1 / 0)
    with pytest.raises(Unreadable, match="no decoder for JPEG-LS Lossless .* is installed; one of these"):
        decode(parse(data), 0)


def test_every_real_file_decodes_or_names_the_decoder(data_root: Path) -> None:
    folder = data_root / "dicom_rgb"
    items, rejects = read(folder, show_paths=True)
    paths = sorted(path.name for path in folder.glob("*.dcm"))
    known = {item.file.name for item in items} | {reject.file.name for reject in rejects}
    assert known >= set(paths) and len(paths) == 38
    reasons = {reject.file.name: reject.reason for reject in rejects if reject.file.suffix == ".dcm"}
    assert all("same file, byte for byte" in reason for reason in reasons.values()) and len(reasons) <= 1
    for item in items:
        path, index = item.load.args  # type: ignore[attr-defined]
        if index > 1:
            continue
        try:
            found = item.load()
        except Unreadable as error:
            assert "no decoder for" in str(error), item.file
            continue
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pixel_array(pydicom.dcmread(path, force=True), index=index)
        if expected.shape == found.shape and expected.dtype == np.uint8:
            assert np.array_equal(found, expected), item.file
