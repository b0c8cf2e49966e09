"""CSVs that name pictures, as programs write them, and what is wrong with others."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.pictures import grey, pictures
from training.data.dataset import DatasetError
from training.data.loading import load


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_names_pictures_beside_it_their_labels_and_their_split(tmp_path: Path, delimiter: str) -> None:
    pictures(tmp_path / "photos", {f"{i}.png": grey(i) for i in range(20)})
    rows = [("file", "label", "split")]
    rows += [(f"photos/{i}.png", "even number" if i % 2 == 0 else "odd", "test" if i < 4 else "") for i in range(20)]
    (tmp_path / "mine.csv").write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows))
    data = load(data=tmp_path / "mine.csv")
    assert (data.name, data.labels) == ("mine", ("even number", "odd"))
    assert sorted(data.x_test[:, 0, 0, 0]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0] % 2, data.y_train)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_a_csv_may_be_written_by_any_program(tmp_path: Path, end: str) -> None:
    pictures(tmp_path / "my photos", {f"{i}.png": grey(i) for i in range(20)})
    places = ["my photos/{}.png", "my photos\\{}.png", str(tmp_path / "my photos" / "{}.png"), '"my photos/{}.png"']
    rows = [
        f"{places[i % 4].format(i)}, {'one' if i % 2 else chr(34) + 'two, or' + chr(10) + 'more' + chr(34)}"
        for i in range(20)
    ]
    (tmp_path / "MINE.CSV").write_text(end.join(["File , Label", *rows, ""]), newline="")
    data = load(data=tmp_path / "MINE.CSV", strict=True)
    assert data.labels == ("one", "two, or\nmore")
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0] % 2, 1 - data.y_train)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected the columns file,label"),
        ("name,class\na,b", "found name, class and 1 rows"),
        (f"file,label\n{'x' * 200_000},cat", "after line 1: not a readable CSV file"),
        ("file,label\ncaf\udce9.png,cat", "not a readable CSV file .*; save it as UTF-8"),
        ("name,class\na,b", "expected the columns file,label"),
        ("file,label\na.png,cat\nb.png,cat", "at least two different labels, found 1"),
        ("file,label\na.png,cat\n,dog\nb.png,dog", "line 3: expected a file and a label"),
        ("file,label\na.png\nb.png", "line 2: expected a file and a label"),
        ("file,label\n,\na.png,cat\nb.png,", "line 4: expected a file and a label"),
        ("file,label,split\na.png,cat,later\nb.png,dog,test", "line 2: split is train, valid or test, got 'later'"),
        ("file,label\na.png,cat\nb.png,dog\nc.png,dog\nd.png,cat", "4 of 4 files cannot be read"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(DatasetError, match=told):
        load(data=tmp_path / "mine.csv")


def test_rows_that_say_nothing_or_nothing_new_count_once(tmp_path: Path) -> None:
    """A picture that two rows name could be learnt from and tested with. Spreadsheets leave rows of commas."""
    pictures(tmp_path / "photos", {f"{i}.png": grey(i) for i in range(20)})
    rows = [f"photos/{i}.png,{'odd' if i % 2 else 'even'}," for i in range(20)]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label,note", *rows, *rows[:7], ",,", ", ,", ""]))
    data = load(data=tmp_path / "mine.csv")
    assert (len(data.x_train), len(data.x_test), data.twins) == (16, 4, 0)
    assert f"{tmp_path / 'mine.csv'}: 7 rows say again what a row above says, and count once" in data.notes
