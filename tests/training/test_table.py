"""CSVs of other people's data sets: how they call their columns, leave out endings, and name groups."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.pictures import grey, pictures
from training.data.dataset import Dataset, DatasetError
from training.data.loading import load
from training.data.table import Columns


def photos(folder: Path, count: int = 20, ending: str = ".png") -> None:
    pictures(folder, {f"{i}{ending}": grey(i) for i in range(count)})


def read(folder: Path, *lines: str, **options: object) -> Dataset:
    (folder / "mine.csv").write_text("\n".join(lines))
    return load(data=folder / "mine.csv", strict=True, **options)  # type: ignore[arg-type]


def of_parity(data: Dataset) -> None:
    """Every picture's grey is its number, which is odd in the second class."""
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0] % 2, data.y_train)
    np.testing.assert_array_equal(data.x_test[:, 0, 0, 0] % 2, data.y_test)
    assert len(data.x_train) + len(data.x_test) == 20


@pytest.mark.parametrize("header", ["id,breed", "image_id,label", "Filename,Category", "image,what it is"])
def test_common_names_of_columns_are_known_and_endings_tried(tmp_path: Path, header: str) -> None:
    photos(tmp_path / "train")
    data = read(tmp_path, header, *(f"{i},{'ab'[i % 2]}" for i in range(20)))
    assert data.labels == ("a", "b")
    of_parity(data)


def test_a_column_for_each_class_will_do(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    rows = (f"{i},{(i + 1) % 2},{i % 2}.0" for i in range(20))
    data = read(tmp_path, "image_id,Scab,multiple diseases", *rows)
    assert data.labels == ("Scab", "multiple diseases")
    of_parity(data)


def test_other_columns_are_named(tmp_path: Path) -> None:
    photos(tmp_path)
    lines = ["Nr,Kind,note", *(f"{i}.png,{'ab'[i % 2]},x" for i in range(20))]
    with pytest.raises(DatasetError, match="--file-column and --label-column name others"):
        read(tmp_path, *lines)
    of_parity(read(tmp_path, *lines, columns=Columns("nr", "kind")))
    with pytest.raises(DatasetError, match=r"no column 'number' \(--file-column\); its columns are Nr, Kind, note"):
        read(tmp_path, *lines, columns=Columns("number", "kind"))


@pytest.mark.parametrize("column", ["group", "patient"])
def test_a_group_stays_in_one_split(tmp_path: Path, column: str) -> None:
    """Four patients of each class, five shots of each."""
    photos(tmp_path, 40)
    rows = [f"{i}.png,{'ab'[i % 2]},p{i % 8}" for i in range(40)]
    columns = Columns(group=None if column == "group" else column)
    data = read(tmp_path, f"file,label,{column}", *rows, columns=columns)
    train, valid = (part[:, 0, 0, 0] % 8 for part in np.split(data.x_train, [len(data.x_train) - data.validation]))
    test = data.x_test[:, 0, 0, 0] % 8
    assert len(test) == len(valid) == 10
    assert len(set(train) | set(valid) | set(test)) == len(set(train)) + len(set(valid)) + len(set(test)) == 8
    assert data.test_groups == 2
    assert read(tmp_path, f"file,label,{column}", *rows, columns=columns, grouped=False).test_groups == 0


def test_thousands_of_missing_files_are_counted_and_listed_in_a_file(tmp_path: Path) -> None:
    rows = (f"gone/{i}.png,{'ab'[i % 2]}" for i in range(500))
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, "file,label", *rows, store=tmp_path / "runs" / "data")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("500 of 500 files cannot be read")
    assert len(lines) == 22
    assert lines[-1].strip() == f"and 480 more; all are listed in {tmp_path / 'runs' / 'data' / 'mine-unreadable.txt'}"
    assert len((tmp_path / "runs" / "data" / "mine-unreadable.txt").read_text().splitlines()) == 500
