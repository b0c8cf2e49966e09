"""The one file of answers: what is on the disk is whole, of one kind, and each picture is in it once."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from serving.bulk import parts
from serving.bulk.parts import Output, OutputError
from serving.bulk.reading import SCHEMA, UNREADABLE

TOLD = {"model": "toy", "version": "1"}


def table(*names: str, **columns: Any) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([{"file": name, "label": "red", **columns} for name in names], SCHEMA)


def rows(path: Path) -> dict[str, str | None]:
    found = pyarrow.parquet.read_table(path)
    assert len(found) == len(set(found["file"].to_pylist()))
    return dict(zip(found["file"].to_pylist(), found["code"].to_pylist(), strict=True))


def test_answers_become_one_file(tmp_path: Path) -> None:
    output = Output(tmp_path / "new" / "a.parquet", TOLD)
    output.add(table("a", "b"))
    output.add(table("bad", label=None, error="no image", code="invalid_image"))
    assert output.answered == 3
    assert output.merge() == (3, 1, 0)
    assert rows(output.path) == {"a": None, "b": None, "bad": "invalid_image"}
    assert [path.name for path in output.path.parent.iterdir()] == ["a.parquet"]
    assert list(output.listed_errors(5)) == [("bad", "no image")]
    assert pyarrow.parquet.read_schema(output.path).metadata[b"shortcut.model"] == b"toy"


def test_interrupted_run_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 2)
    output = Output(tmp_path / "a.parquet", TOLD)
    for name in "abcde":
        output.add(table(name))
    del output  # what waits is lost, what is on the disk is whole
    again = Output(tmp_path / "a.parquet", TOLD)
    assert again.done == set("abcd")
    assert not again.path.exists()
    again.add(table("e"))
    again.merge()
    assert set(rows(again.path)) == set("abcde")


def test_finished_file_takes_more(tmp_path: Path) -> None:
    first = Output(tmp_path / "a.parquet", TOLD)
    first.add(table("a"))
    first.merge()
    second = Output(tmp_path / "a.parquet", TOLD)
    assert second.done == {"a"}
    second.add(table("b"))
    assert second.merge().pictures == 2
    assert set(rows(second.path)) == {"a", "b"}


def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    gone = {"label": None, "error": "cannot be read", "code": UNREADABLE}
    first = Output(tmp_path / "a.parquet", TOLD)
    first.add(table("a"))
    first.add(table("b", "c", **gone))
    first.merge()
    second = Output(tmp_path / "a.parquet", TOLD)
    assert second.done == {"a"}
    assert second.answered == 1
    second.add(table("b"))
    second.add(table("c", **gone))
    assert second.answered == 2
    assert second.merge() == (3, 1, 0)
    assert rows(second.path) == {"a": None, "b": None, "c": UNREADABLE}


def test_answers_of_another_kind_are_not_mixed(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.parquet", TOLD)
    output.add(table("a"))
    output.flush()
    with pytest.raises(OutputError, match="version 1, asked is 2"):
        Output(tmp_path / "a.parquet", {**TOLD, "version": "2"})
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(OutputError, match="holds no answers of this command"):
        Output(tmp_path / "b.parquet", TOLD)


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(tmp_path / "a.parquet", TOLD)
    output.add(table("a"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        output.merge()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("name", "told"), [("a.csv", "must end with .parquet"), ("a.parquet", "is a folder")])
def test_output_that_cannot_be_is_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(OutputError, match=told):
        Output(tmp_path / name, TOLD)


def test_foreign_file_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x" * 100)
    with pytest.raises(OutputError, match="cannot be read"):
        Output(tmp_path / "a.parquet", TOLD)
