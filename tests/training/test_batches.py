"""Batches: a function of seed and number, shared out without overlap, images and masks moved alike."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fundusforge.images import colour_code, grey_clahe, read_image, read_mask, write_image
from fundusforge.models.recipe import View
from fundusforge.records import DatasetError, Mask, Record, read_folder, with_mask, write_metadata
from fundusforge.training.augment import Sample, draw
from fundusforge.training.batches import Batches, finding

SEGMENTATION = View(masks=("vessels", "disc"), crop=48, augment="segmentation", scale=(0.7, 1.4), code=True)
TRANSLATION = View(masks=("vessels",), size=40, augment="translation")


@pytest.fixture(scope="module")
def eyes(drawn_folder: Callable[..., Path]) -> Path:
    return drawn_folder(7, size=96)


def batches(folder: Path, view: View, *, batch: int = 4, seed: int = 0, **options: int | float) -> Batches:
    return Batches(folder, read_folder(folder), view, batch=batch, seed=seed, **options)


def first(feed: Batches, count: int = 3) -> list[dict[str, Tensor]]:
    return list(islice(feed, count))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_is_what_the_view_promises(eyes: Path) -> None:
    (batch,) = first(batches(eyes, SEGMENTATION), 1)
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == {
        "image": ((4, 3, 48, 48), torch.float32),
        "masks": ((4, 2, 48, 48), torch.float32),
        "masks_known": ((4, 2), torch.float32),
        "field_of_view": ((4, 1, 48, 48), torch.float32),
        "code": ((4, 10), torch.float32),
        "grade": ((4,), torch.int64),
        "index": ((4,), torch.int64),
    }
    assert batch["image"].min() >= -1
    assert batch["image"].max() <= 1
    assert (batch["masks_known"] == 1).all()
    assert batch["grade"].tolist() == [index % 5 for index in batch["index"].tolist()]


@pytest.mark.parametrize("view", [SEGMENTATION, TRANSLATION])
def test_batches_are_a_function_of_seed_and_number(eyes: Path, view: View) -> None:
    whole = first(batches(eyes, view), 6)
    assert all(same(a, b) for a, b in zip(whole, first(batches(eyes, view), 6), strict=True))
    later = first(batches(eyes, view, start_image=12), 3)
    assert all(same(a, b) for a, b in zip(whole[3:], later, strict=True))
    assert not torch.equal(whole[0]["image"], first(batches(eyes, view, seed=1), 1)[0]["image"])
    torch.manual_seed(9)  # torch's own generator has no say, and is not disturbed
    before = torch.get_rng_state()
    assert same(whole[0], first(batches(eyes, view), 1)[0])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "options", [{"cache_gb": 0.0}, {"cache_gb": 1e-4}, {"workers": 2}, {"workers": 1, "cache_gb": 0}]
)
def test_neither_cache_nor_workers_change_a_value(eyes: Path, options: dict) -> None:
    plain, other = batches(eyes, SEGMENTATION), batches(eyes, SEGMENTATION, **options)
    assert all(same(a, b) for a, b in zip(first(plain, 5), first(other, 5), strict=True))


def test_processes_share_each_batch_without_overlap(eyes: Path) -> None:
    whole = first(batches(eyes, SEGMENTATION), 4)
    shares = [first(batches(eyes, SEGMENTATION, rank=rank, world=2), 4) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        joined = {name: torch.cat([share[number][name] for share in shares]) for name in batch}
        assert same(batch, joined)
    with pytest.raises(ValueError, match="no multiple of 3"):
        batches(eyes, SEGMENTATION, world=3)


def test_each_epoch_shows_every_image_once_in_another_order(eyes: Path) -> None:
    feed = batches(eyes, TRANSLATION, batch=7)
    orders = [batch["index"].tolist() for batch in first(feed, 3)]
    assert [sorted(order) for order in orders] == [list(range(7))] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert len(feed) == 7


@pytest.fixture
def striped(tmp_path: Path) -> Path:
    """A folder whose image is red exactly where its mask is set: blocks large enough to survive a warp."""
    rng = np.random.default_rng(0)
    for name in ("images", "vessels", "field_of_view"):
        (tmp_path / name).mkdir()
    records = []
    for number in range(3):
        mask = np.kron(rng.random((8, 8)) < 0.4, np.ones((16, 16))).astype(np.uint8) * 255
        y, x = np.mgrid[:128, :128]
        inside = (np.hypot(y - 63.5, x - 63.5) < 60).astype(np.uint8) * 255
        image = np.zeros((128, 128, 3), np.uint8)
        image[..., 0], image[..., 2] = mask, 255 - mask
        image[inside == 0] = 0
        mask[inside == 0] = 0
        for name, pixels in (("images", image), ("vessels", mask), ("field_of_view", inside)):
            write_image(tmp_path / name / f"{number}.png", pixels)
        records.append(
            Record(
                image=f"images/{number}.png",
                patient=str(number),
                source="striped",
                masks={"vessels": Mask(path=f"vessels/{number}.png", origin="phantom")},
                field_of_view=f"field_of_view/{number}.png",
            )
        )
    write_metadata(tmp_path, records)
    return tmp_path


@pytest.mark.parametrize(
    "view",
    [
        View(masks=("vessels",), crop=64, augment="segmentation", scale=(0.6, 1.6)),
        View(masks=("vessels",), augment="translation"),
        View(masks=("vessels",), size=96, augment="segmentation", scale=(0.9, 1.1)),
        View(masks=("vessels",), crop=200, augment="segmentation", scale=(0.5, 0.8)),
    ],
)
def test_masks_stay_binary_and_aligned_with_the_image(striped: Path, view: View) -> None:
    agreeing = total = 0
    for batch in first(batches(striped, view, batch=8), 6):
        assert set(batch["masks"].unique().tolist()) <= {0.0, 1.0}
        assert set(batch["field_of_view"].unique().tolist()) <= {0.0, 1.0}
        inside = batch["field_of_view"][:, 0] > 0
        red = batch["image"][:, 0] > batch["image"][:, 2]
        agreeing += ((batch["masks"][:, 0] > 0) == red)[inside].sum().item()
        total += inside.sum().item()
        assert (batch["image"].amax(1)[~inside] == -1).all()
    assert agreeing / total > 0.97  # edges of blocks are half and half


def test_segmentation_changes_colours_and_translation_does_not(striped: Path) -> None:
    plain = View(masks=("vessels",))
    calm, wild = replace(plain, augment="translation"), replace(plain, augment="segmentation")
    for batch in first(batches(striped, calm, batch=8), 3):
        pure = batch["image"][:, 0][(batch["masks"][:, 0] > 0)]
        assert (pure > 0.98).float().mean() > 0.9
    values = [
        b["image"][:, 0][b["masks"][:, 0] > 0].mean().item()
        for b in first(batches(striped, wild, batch=1), 24)
    ]
    assert np.std(values) > 0.05


def test_crops_are_centred_inside_the_field_of_view(striped: Path) -> None:
    view = View(masks=("vessels",), crop=9)
    for batch in first(batches(striped, view, batch=32), 4):
        assert (batch["field_of_view"][:, 0, 4, 4] == 1).all()


def test_an_unchanged_view_is_the_picture_itself(eyes: Path) -> None:
    records = read_folder(eyes)
    (batch,) = first(batches(eyes, View(masks=("disc",), code=True), batch=1), 1)
    record = records[int(batch["index"])]
    pixels = read_image(eyes / record.image)
    shown = ((batch["image"][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(shown, pixels)
    assert np.array_equal(batch["masks"][0, 0].numpy() * 255, read_mask(eyes / record.masks["disc"].path))
    field = read_mask(eyes / str(record.field_of_view))
    assert np.array_equal(batch["code"][0].numpy(), colour_code(pixels, field))


def test_a_grey_view_is_adjusted_grey(eyes: Path) -> None:
    (batch,) = first(batches(eyes, View(grey=True), batch=1), 1)
    expected = grey_clahe(read_image(eyes / read_folder(eyes)[int(batch["index"])].image))
    assert np.array_equal(((batch["image"][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), expected)


def relabel(folder: Path, change: Callable[[int, Record], Record]) -> list[Record]:
    return [change(number, record) for number, record in enumerate(read_folder(folder))]


def test_unknown_masks_are_empty_and_marked(eyes: Path) -> None:
    def without(number: int, record: Record) -> Record:
        masks = {name: m for name, m in record.masks.items() if name != "disc" or number % 2}
        return replace(record, masks=masks, grade=None, field_of_view=None)

    records = relabel(eyes, without)
    (batch,) = first(Batches(eyes, records, replace(SEGMENTATION, augment="none"), batch=7, seed=0), 1)
    assert batch["masks_known"][:, 0].tolist() == [1.0] * 7
    assert batch["masks_known"][:, 1].tolist() == [float(i % 2) for i in batch["index"].tolist()]
    assert (batch["masks"][:, 1][batch["masks_known"][:, 1] == 0] == 0).all()
    assert (batch["grade"] == -1).all()
    needing = Batches(eyes, records, replace(SEGMENTATION, needs=("disc",)), batch=3, seed=0)
    assert len(needing) == 3
    assert {i % 2 for batch in first(needing) for i in batch["index"].tolist()} == {1}
    with pytest.raises(DatasetError, match="none of 7 records has the masks drusen"):
        Batches(eyes, records, replace(SEGMENTATION, needs=("drusen",)), batch=1, seed=0)


def test_cameras_are_drawn_equally_often(eyes: Path) -> None:
    records = relabel(
        eyes, lambda number, record: replace(record, camera="rare" if number == 0 else "common")
    )
    feed = Batches(eyes, records, replace(TRANSLATION, balance="cameras"), batch=12, seed=0)
    counts = np.bincount(first(feed, 1)[0]["index"].numpy(), minlength=7)
    assert counts.tolist() == [6, 1, 1, 1, 1, 1, 1]


def test_what_is_known_of_a_finding(tmp_path: Path) -> None:
    def known(name: str, **facts: object) -> int:
        return finding(tmp_path, Record(image="a.png", patient="a", source="made", **facts), name)

    for name, value in (("full", 255), ("empty", 0)):
        write_image(tmp_path / f"{name}.png", np.full((4, 4), value, np.uint8))

    def mask(path: str, origin: str = "phantom") -> dict[str, Mask]:
        return {"laser_marks": Mask(path=path, origin=origin)}

    assert known("laser_marks") == -1
    assert known("laser_marks", labels=("laser",)) == 1, "by the name that sources use"
    assert known("laser_marks", labels=("laser_marks",)) == 1
    assert known("laser_marks", labels=("normal",)) == 0
    assert known("laser_marks", grade=0) == 0
    assert known("laser_marks", grade=3) == -1
    assert known("laser_marks", masks=mask("full.png")) == 1
    assert known("laser_marks", masks=mask("empty.png"), grade=3) == 0
    assert known("laser_marks", masks=mask("full.png", "predicted")) == -1
    assert known("laser_marks", labels=("laser",), predicted=("laser",)) == -1
    assert known("laser_marks", grade=0, predicted=("grade",)) == -1
    assert known("glaucoma", labels=("glaucoma", "normal")) == 1


def test_grades_and_findings_are_drawn_equally_often(eyes: Path) -> None:
    def rare(number: int, record: Record) -> Record:
        grade, labels = [(4, ("laser",)), (None, ())][number] if number < 2 else (1, ("normal",))
        return replace(record, grade=grade, labels=labels)

    records = relabel(eyes, rare)
    view = View(size=32, augment="classification", labels=("laser_marks",))
    for balance in ("grades", "labels"):
        batch = first(Batches(eyes, records, replace(view, balance=balance), batch=10, seed=0), 1)[0]
        assert np.bincount(batch["index"].numpy(), minlength=7).tolist() == [5, 0, 1, 1, 1, 1, 1]
        assert (batch["labels"][:, 0] == (batch["index"] == 0)).all()
    batch = first(Batches(eyes, records, view, batch=7, seed=0), 1)[0]
    assert batch["labels"][batch["index"] == 1].item() == -1, "nobody said"
    unknown = [replace(record, grade=None, labels=()) for record in records]
    for balance, what in (("grades", "grade"), ("labels", "laser_marks")):
        with pytest.raises(DatasetError, match=f"of none of 7 records is known: {what}"):
            Batches(eyes, unknown, replace(view, balance=balance), batch=1, seed=0)


def test_classification_changes_little_and_keeps_eyes_upright(eyes: Path) -> None:
    """A spot moves no further than shift, zoom and rotation together allow; mirrors are as asked for."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 15:18, 45:48] = 255
    sample = Sample(image, torch.zeros(0, 64, 64, dtype=torch.uint8), torch.full((1, 64, 64), 255).byte())

    def places(view: View) -> np.ndarray:
        drawn = [draw(sample, view, np.random.default_rng(seed)).image[0].numpy() for seed in range(40)]
        grid = np.mgrid[:64, :64].reshape(2, -1)
        return np.array([(grid * each.ravel()).sum(1) / each.sum() for each in drawn])

    view = View(augment="classification")
    rows, columns = places(view).T
    assert {bool(column > 32) for column in columns} == {True, False}, "mirrored left and right"
    assert rows.max() < 26, "never upside down"
    moved = np.hypot(rows - 16, np.where(columns > 32, columns, 63 - columns) - 46)
    assert 1 < moved.max() < 64 * 0.0625 * 1.5 + 22 * (0.1 + np.radians(5))
    assert places(replace(view, vertical=True))[:, 0].max() > 40
    changed = draw(sample, replace(view, tint=True), np.random.default_rng(1)).image
    assert not torch.equal(changed[0], changed[1]), "each colour by itself"


def test_crops_gather_near_structures(striped: Path) -> None:
    """A speck of 16 px is seen in nearly every crop that is to be near it, and in few others."""
    speck = np.zeros((128, 128), np.uint8)
    speck[30:34, 60:64] = 255
    for record in read_folder(striped):
        write_image(striped / record.masks["vessels"].path, speck)
    near, anywhere = (
        batches(striped, View(masks=("vessels",), crop=24, focus=focus), batch=4) for focus in (1.0, 0.0)
    )
    seen = [
        sum(b["masks"].amax((1, 2, 3)).sum().item() for b in first(feed, 15)) for feed in (near, anywhere)
    ]
    assert seen[0] > 55 and seen[1] < 15, seen
    empty = View(masks=("disc",), crop=24, focus=1.0)
    assert first(batches(striped, empty), 1)[0]["image"].shape == (4, 3, 24, 24)


def test_a_healthy_retina_is_known_to_have_no_lesions(eyes: Path) -> None:
    bare = [replace(record, masks={}) for record in read_folder(eyes)]
    guessed = [replace(record, grade=0, predicted=("grade",)) for record in bare]
    for records, known in ((bare, [1, 0]), (guessed, [0, 0])):
        write_metadata(eyes, records)
        feed = batches(eyes, View(masks=("haemorrhages", "vessels"), crop=32), batch=7)
        (batch,) = first(feed, 1)
        healthy = torch.tensor([records[int(i)].grade == 0 for i in batch["index"]])
        assert healthy.any()
        assert batch["masks_known"][healthy].tolist() == [known] * int(healthy.sum())
        assert not batch["masks_known"][~healthy].any() and not batch["masks"].any()


def test_soft_masks_keep_their_values(striped: Path) -> None:
    records = []
    for record in read_folder(striped):
        path = record.masks["vessels"].path
        write_image(striped / path, np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1)))
        records.append(with_mask(record, "vessels", path, "predicted", soft=True))
    write_metadata(striped, records)
    (whole,) = first(batches(striped, View(masks=("vessels",), size=128), batch=3), 1)
    assert torch.equal(whole["masks"][0, 0, 5], torch.arange(128) * 2 / 255)
    (half,) = first(batches(striped, View(masks=("vessels",), size=64), batch=3), 1)
    assert 0 < half["masks"].mean() < 1 and len(half["masks"].unique()) > 30
    write_metadata(striped, [with_mask(r, "vessels", r.masks["vessels"].path, "predicted") for r in records])
    with pytest.raises(DatasetError, match="must hold only 0 and 255"):
        first(batches(striped, View(masks=("vessels",))), 1)


def test_whole_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    records = []
    for number, shape in enumerate([(20, 30, 3), (24, 24, 3)]):
        write_image(tmp_path / f"{number}.png", np.full(shape, 200, np.uint8))
        records.append(Record(image=f"{number}.png", patient="a", source="made"))
    with pytest.raises(DatasetError, match=r"0\.png is 30x20 and 1\.png is 24x24"):
        Batches(tmp_path, records, View(), batch=1, seed=0)
    (batch,) = first(Batches(tmp_path, records, View(size=16), batch=2, seed=0), 1)
    wide = batch["index"].tolist().index(0)
    assert batch["field_of_view"][wide].sum() < 16 * 16  # padded to a square above and below
    assert (batch["image"][wide, :, 0] == -1).all()
    assert (batch["image"][wide, :, 8] > 0).all()


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "eye.png", np.zeros((8, 8, 3), np.uint8))
    write_image(tmp_path / "disc.png", np.zeros((4, 8), np.uint8))
    record = Record(
        image="eye.png", patient="a", source="made", masks={"disc": Mask(path="disc.png", origin="human")}
    )
    with pytest.raises(DatasetError, match=r"disc\.png: 8x4 pixels, but its image is 8x8"):
        first(Batches(tmp_path, [record], View(masks=("disc",), crop=4), batch=1, seed=0))


def test_an_error_in_a_worker_reaches_the_trainer(eyes: Path, tmp_path: Path) -> None:
    record = Record(image="gone.png", patient="a", source="made")
    with pytest.raises(DatasetError, match=r"gone\.png"):
        first(Batches(tmp_path, [record], View(crop=4), batch=1, seed=0, workers=1))


def test_a_feed_starts_only_at_the_edge_of_a_batch(eyes: Path) -> None:
    with pytest.raises(ValueError, match="image 6 is not the first of a batch of 4"):
        next(batches(eyes, SEGMENTATION).starting_at(6))
