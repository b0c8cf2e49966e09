"""Whatever the source, a picture's answer is the predictor's, and a bad one has its error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from serving.bulk import reading
from serving.bulk.reading import UNREADABLE, Classifier, Work
from serving.bulk.sources import Chunk, Place, chunks
from serving.repository.answers import Answer, rank
from serving.repository.predictor import Predictor
from tests.bulk.conftest import pictures, write_parquet, write_tar


def answered(work: Work, source: Path | str) -> list[dict[str, Any]]:
    classifier = Classifier(work)
    return [row for chunk in chunks(str(source)) for table in classifier.tables(chunk) for row in table.to_pylist()]


def assert_predicted(rows: list[dict[str, Any]], predictor: Predictor, contents: list[bytes]) -> None:
    for row, outcome in zip(rows, predictor.predict(contents), strict=True):
        assert isinstance(outcome, Answer)
        best = rank(outcome, 2).best
        assert row["label"] == outcome.labels[best[0][0]]
        assert [(p["index"], p["label"]) for p in row["predictions"]] == [(i, outcome.labels[i]) for i, _ in best]
        assert [p["probability"] for p in row["predictions"]] == pytest.approx([p for _, p in best], abs=1e-5)
        assert (row["unsure"], row["error"], row["code"]) == (None, None, None)


def test_every_source_gives_the_predictors_answers(work: Work, predictor: Predictor, tmp_path: Path) -> None:
    contents = list(pictures(40).values())
    store = fsspec.filesystem("memory")
    (tmp_path / "disk").mkdir()
    for name, content in pictures(40).items():
        (tmp_path / "disk" / name).write_bytes(content)
        store.pipe_file(f"/bulk-answers/{name}", content)
    for source in (
        tmp_path / "disk",
        "memory://bulk-answers",
        write_tar(tmp_path / "x.tar", pictures(40)),
        write_parquet(tmp_path / "x.parquet", contents, 15),
        write_parquet(tmp_path / "y.parquet", contents, 100, struct=True),
    ):
        assert_predicted(answered(work, source), predictor, contents)


def test_bad_pictures_are_named_beside_the_good(work: Work, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "good.png").write_bytes(pictures(1)["000.png"])
    (tmp_path / "large.png").write_bytes(b"x" * (work.max_bytes + 1))
    (tmp_path / "list.txt").write_text("bad.png\ngood.png\nlarge.png\nmissing.png\n")
    rows = answered(work, tmp_path / "list.txt")
    assert [row["code"] for row in rows] == ["invalid_image", None, "body_too_large", UNREADABLE]
    assert "No such file" in rows[3]["error"]
    assert f"{work.max_bytes:,} bytes" in rows[2]["error"]


def test_missing_in_a_store_is_unreadable(work: Work) -> None:
    chunk = Chunk("memory", (Place("gone", "/bulk-answers/gone.png"),))
    ((row,),) = [table.to_pylist() for table in Classifier(work).tables(chunk)]
    assert (row["file"], row["code"]) == ("gone", UNREADABLE)


def test_empty_cell_of_parquet_is_a_bad_picture(work: Work, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [b"", pictures(1)["000.png"]], 10, struct=True)
    assert [row["code"] for row in answered(work, file)] == ["invalid_image", None]


def test_unsure_is_as_the_service_says_it(work: Work, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures(1)["000.png"])
    assert [row["unsure"] for row in answered(replace(work, min_probability=1.0), tmp_path)] == ["low_probability"]


def test_no_more_is_read_than_is_computed(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by a batch, whatever the row group holds."""
    monkeypatch.setattr(reading, "AT_ONCE_BYTES", 3000)
    file = write_parquet(tmp_path / "x.parquet", [b"x" * 1000] * 20, 20)
    (chunk,) = chunks(str(file))
    sizes = [len(some) for some in reading.read(chunk, 10_000)]
    assert sum(sizes) == 20
    assert max(sizes) == 4


def test_tables_of_a_chunk_are_always_cut_alike(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TABLE_ROWS", 10)
    file = write_parquet(tmp_path / "x.parquet", list(pictures(70).values()), 70)
    (chunk,) = chunks(str(file))
    classifier = Classifier(work)
    first = [table.to_pylist() for table in classifier.tables(chunk)]
    assert first == [table.to_pylist() for table in classifier.tables(chunk)]
    assert len(first) > 1
