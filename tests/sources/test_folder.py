"""Folders of pictures with a table and mask subfolders."""

from pathlib import Path

import layouts
import numpy as np
import pytest

from fundusforge.records import DatasetError
from fundusforge.sources import Item, Reject
from fundusforge.sources.folder import Folder


def read(root: Path, **options: object) -> tuple[dict[str, Item], list[Reject]]:
    found = list(Folder(root=root, **options).items())  # type: ignore[arg-type]
    return (
        {thing.key: thing for thing in found if isinstance(thing, Item)},
        [thing for thing in found if isinstance(thing, Reject)],
    )


def test_names_with_spaces_and_umlauts_and_masks_in_both_places(tmp_path: Path) -> None:
    items, rejects = read(layouts.build_folder(tmp_path))
    assert list(items) == ["größe_a", "größe_b", "left_eye"] and not rejects
    assert np.array_equal(items["left_eye"].masks["vessels"].load(), layouts.draw_mask())
    assert list(items["größe_a"].masks) == ["disc"] and not items["größe_b"].masks
    assert items["größe_a"].file == Path("größe/a.jpg")


def test_images_folder_beside_mask_folders(tmp_path: Path) -> None:
    layouts.save(tmp_path / "images" / "deep" / "1.jpg", layouts.draw())
    layouts.save(tmp_path / "vessels" / "deep" / "1.png", layouts.draw_mask())
    layouts.save(tmp_path / "field_of_view" / "deep" / "1.gif", layouts.draw_mask(2))
    items, _ = read(tmp_path)
    item = items["images_deep_1"]
    assert list(item.masks) == ["vessels"] and item.field_of_view is not None
    assert np.array_equal(item.field_of_view(), layouts.draw_mask(2))


def test_every_column_of_the_table(tmp_path: Path) -> None:
    root = layouts.build_folder(tmp_path)
    layouts.save(root / "drawn" / "cup.png", layouts.draw_mask(5))
    layouts.write_csv(
        root / "table.csv",
        "image;patient;eye;age;sex;grade;oedema_risk;split;labels;visit;camera;terms;cup_file",
        '"größe/a.jpg";p7;OS;63.5;F;3;1;validation;"laser; erm";2;Kowa;CC0;drawn/cup.png',
        "left eye.png;p7;right;;m;;;;;;;;",
    )
    items, rejects = read(root, terms="ask us", camera="any")
    first, second = items["größe_a"], items["left_eye"]
    assert not rejects and len(items) == 3, "a mask that the table names is no image"
    assert (first.patient, first.eye, first.age, first.sex, first.grade) == ("p7", "left", 63.5, "female", 3)
    assert (first.oedema_risk, first.split, first.labels, first.visit) == (1, "val", ("erm", "laser"), 2)
    assert (first.camera, first.terms) == ("Kowa", "CC0")
    assert np.array_equal(first.masks["cup"].load(), layouts.draw_mask(5))
    assert (second.sex, second.age, second.terms, second.camera) == ("male", None, "ask us", "any")
    assert items["größe_b"].patient == "größe/b.jpg", "no row: a patient of its own"


def test_what_is_wrong_with_a_row_is_told(tmp_path: Path) -> None:
    root = layouts.build_folder(tmp_path)
    layouts.write_csv(root / "t.csv", "image,grade,eye", "a.jpg,7,left", "b.jpg,1,up", "c.jpg,1,left")
    items, rejects = read(root)
    assert list(items) == ["left_eye"]
    assert [(reject.file.as_posix(), reject.reason) for reject in rejects] == [
        ("größe/a.jpg", "grade is '7' in the table; expected a number from 0 to 4"),
        ("größe/b.jpg", "eye is 'up' in the table; expected left, right"),
        ("c.jpg", "the table names this image, but it is not in the folder"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,grade", "a.jpg,1"), "has no column 'image'"),
        (("image,garde", "a.jpg,1"), "unknown column 'garde'"),
        (("image", "a.jpg", "größe/a.jpg"), r"t\.csv:3: image 'größe/a.jpg' stands twice"),
        (("image", "../a.jpg"), r"t\.csv:2: image '../a.jpg' is absolute or leaves the folder"),
        (("image,disc_file", "a.jpg,/etc/passwd"), "disc_file '/etc/passwd' is absolute or leaves"),
    ],
)
def test_a_broken_table_is_an_error(lines: tuple[str, ...], message: str, tmp_path: Path) -> None:
    root = layouts.build_folder(tmp_path)
    layouts.write_csv(root / "t.csv", *lines)
    with pytest.raises(DatasetError, match=message):
        read(root)


def test_two_tables_need_a_choice(tmp_path: Path) -> None:
    root = layouts.build_folder(tmp_path)
    layouts.write_csv(root / "a.csv", "image,grade", "a.jpg,1")
    layouts.write_csv(root / "b.csv", "image,grade", "a.jpg,2")
    with pytest.raises(DatasetError, match="holds 2 CSV files; say which"):
        read(root)
    assert read(root, table=Path("b.csv"))[0]["größe_a"].grade == 2


def test_keys_are_unique_and_can_hide_names(tmp_path: Path) -> None:
    for name in ("Anna Muster.png", "Anna_Muster.png", "Anna_Muster.jpg", "x/" + "y" * 150 + ".png"):
        layouts.save(tmp_path / name, layouts.draw())
    items, _ = read(tmp_path)
    assert len(items) == 4 and all(len(key) < 120 for key in items)
    hidden, _ = read(tmp_path, hide_names=True)
    assert len(hidden) == 4
    assert not any("anna" in f"{item.key}{item.file}".lower() for item in hidden.values())


def test_pictures_that_cannot_be_read_fail_late_and_clearly(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no picture")
    items, _ = read(tmp_path)
    with pytest.raises(DatasetError, match="empty file"):
        items["empty"].load()
    with pytest.raises(DatasetError, match="not a readable picture"):
        items["text"].load()
