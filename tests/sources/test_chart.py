"""Keywords in a chart: whole words, any case, exclusion, and rows narrowed to a visit or an eye."""

from pathlib import Path

import layouts
import pytest

from fundusforge.records import DatasetError
from fundusforge.sources.chart import Chart, find_words, read_chart, split_words

ABOUT = {"file": "a.dcm", "patient": "7", "date": "20200102", "visit": 1, "eye": "left"}


def test_words_are_whole_and_case_does_not_matter() -> None:
    assert find_words(["erm"], ["Early ERM, left"]) == ["erm"]
    assert find_words(["erm"], ["dermatitis", "term", "erms"]) == []
    assert find_words(["epiretinal membrane"], ["EPIRETINAL\n membrane"]) == ["epiretinal membrane"]
    assert find_words(["d.r."], ["xdxrx"]) == []
    assert split_words(("erm, macular pucker", "drusen")) == ("erm", "macular pucker", "drusen")


@pytest.mark.parametrize(
    ("row", "chosen"),
    [
        ("7,,,,ERM", ("erm",)), ("8,,,,ERM", None), ("7,2020-01-02,,,erm", ("erm",)),
        ("7,20200103,,,erm", None), ("7,,1,,erm", ("erm",)), ("7,,2,,erm", None), ("7,,,OS,erm", ("erm",)),
        ("7,,,right,erm", None), ("7,,,,erm after laser", None), ("7,,,,normal", None),
    ],
)  # fmt: skip
def test_rows_choose(row: str, chosen: tuple[str, ...] | None, tmp_path: Path) -> None:
    path = layouts.write_csv(tmp_path / "chart.csv", "patient,date,visit,eye,keywords", row)
    chart = Chart(rows=read_chart(path), keywords=("ERM",), exclude=("laser",))
    assert chart.choose(**ABOUT) == chosen  # type: ignore[arg-type]


def test_a_row_may_name_the_file(tmp_path: Path) -> None:
    path = layouts.write_csv(tmp_path / "chart.csv", "file,text", "a.dcm,drusen", "b.dcm,erm")
    chart = Chart(rows=read_chart(path), keywords=("drusen",))
    assert chart.choose(**ABOUT) == ("drusen",)  # type: ignore[arg-type]
    assert chart.choose(**{**ABOUT, "file": "c.dcm"}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("patient,note", "Muster,x"), "a chart needs a column"),
        (("text", "x"), "a chart needs a column"),
        (("patient,date,text", "Muster,1.2.2020,x"), r"chart\.csv:2: the date is not of the form"),
        (("patient,visit,text", "Muster,first,x"), "the visit is no whole number"),
        (("patient,eye,text", "Muster,both,x"), "the eye is neither left nor right"),
    ],
)
def test_a_broken_chart_is_an_error_without_names(
    lines: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = layouts.write_csv(tmp_path / "chart.csv", *lines)
    with pytest.raises(DatasetError, match=message) as raised:
        read_chart(path)
    assert "Muster" not in str(raised.value)
