"""Whatever the source, a picture's answer is the predictor's, and a bad one has its error."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from serving.bulk import reading
from serving.bulk.reading import UNREADABLE, Classifier, Work, artifact_files
from serving.bulk.sources import Chunk, Place, chunks
from serving.errors import BodyTooLarge
from serving.repository.answers import Answer, rank
from serving.repository.predictor import Predictor
from tests.bulk.conftest import pictures, write_parquet, write_tar
from tests.fixtures import toy
from tests.fixtures.pictures import digit, encode, grey


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


def test_columns_say_of_each_picture_what_rank_says(work: Work, tmp_path: Path) -> None:
    """Digits and blank pictures, unfamiliar and unlikely ones, and bad ones between them."""
    shape, convention = (28, 28, 1), "light_on_dark_centred"
    card = {"unfamiliar_from": 0.15, "threshold": {"probability": 0.9}}
    model = toy.write_artifact(tmp_path / "others", shape=shape, convention=convention, seed=1, **card)
    contents = [b"no picture", encode(grey(0)), encode(grey(0).convert("RGB")), b""]
    contents += [encode(digit(text, height=height)) for text in "0123456789" for height in (0.3, 0.8)] + [b""]
    source = write_parquet(tmp_path / "x.parquet", contents, 50)
    rows = answered(replace(work, files=artifact_files(model), min_probability="card"), source)
    for row, outcome in zip(rows, Predictor.open(model).predict(contents, min_probability="card"), strict=True):
        if isinstance(outcome, Answer):
            ranking = rank(outcome, work.top_k, "card")
            assert (row["unsure"], row["error"]) == (ranking.unsure, None)
            assert row["label"] == outcome.labels[ranking.best[0][0]]
        else:
            nothing = dict.fromkeys(row)
            assert row == {**nothing, "file": row["file"], "error": str(outcome), "code": outcome.code}
    assert {row["unsure"] for row in rows} == {None, "no_figure", "unfamiliar", "low_probability"}


def test_name_that_is_no_text_is_answered(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("é-\udcff.png").write_bytes(pictures(1)["000.png"])
    (row,) = answered(work, folder)
    assert (row["file"], row["error"]) == ("é-\\xff.png", None)


def test_nothing_but_bad_pictures(work: Work, tmp_path: Path) -> None:
    rows = answered(work, write_parquet(tmp_path / "x.parquet", [b"", b"x"], 2))
    assert [(row["code"], row["predictions"]) for row in rows] == [("invalid_image", None)] * 2


def test_pipe_is_read_to_its_end(work: Work, tmp_path: Path) -> None:
    """It has no size that could be asked for."""
    sizes = [work.max_bytes, work.max_bytes + 1]
    for size in sizes:
        os.mkfifo(tmp_path / str(size))
        threading.Thread(target=(tmp_path / str(size)).write_bytes, args=(b"x" * size,), daemon=True).start()
    chunk = Chunk("file", tuple(Place(str(size), str(tmp_path / str(size))) for size in sizes))
    [[fits, large]] = reading.read(chunk, work.max_bytes)
    assert fits.content == b"x" * work.max_bytes
    assert isinstance(large.content, BodyTooLarge)


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
