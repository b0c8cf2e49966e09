"""A chunk of pictures -> a table of answers, by the synchronous predictor. This is what each Ray actor does.

Reads what it is about to compute and no more, so that its memory has a bound. Knows nothing of Ray or of other chunks.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet

from serving.bulk.sources import Chunk, Place
from serving.engine.measurements import FILE as MEASURED
from serving.engine.measurements import Measurements
from serving.engine.selection import Options
from serving.errors import BodyTooLarge, ClassifyError, StartError
from serving.repository.answers import rank_all
from serving.repository.predictor import Predictor

AT_ONCE_PICTURES = 32  # read and computed together: one batch
AT_ONCE_BYTES = 64 * 1024 * 1024  # of a Parquet file's rows, whose sizes nobody knows before they are read
TABLE_ROWS = 512  # answers that are made columns together
UNREADABLE = "unreadable_file"  # the code of what may be readable another time

PREDICTION = pyarrow.struct(
    [("label", pyarrow.string()), ("index", pyarrow.int32()), ("probability", pyarrow.float64())]
)
SCHEMA = pyarrow.schema(
    [
        ("file", pyarrow.string()),
        ("label", pyarrow.string()),
        ("probability", pyarrow.float64()),
        ("predictions", pyarrow.list_(PREDICTION)),
        ("unsure", pyarrow.string()),
        ("error", pyarrow.string()),
        ("code", pyarrow.string()),
    ]
)


class Unreadable(ClassifyError):
    """The file is missing, or its store did not give it. Not kept as an answer: the next run tries again."""

    status, code = 404, UNREADABLE


@dataclass(frozen=True)
class Work:
    """What all actors are told: the artifact's files, so that no node needs the models' folder, and what is asked."""

    name: str
    version: int
    files: dict[str, bytes]
    options: Options
    cache: Path
    image_seconds: float  # that the model takes on the machine of the command, decoding aside
    measured: bytes  # which backend is the fastest on the machine of the command: its file for this run
    max_pixels: int
    max_bytes: int
    top_k: int
    min_probability: float | str | None


_Note: TypeAlias = str | ClassifyError | None  # of a picture: the decoder's doubt, or why there is no answer


class _Picture(NamedTuple):
    name: str
    content: bytes | ClassifyError


class Classifier:
    """One model, loaded once, for one chunk after another."""

    def __init__(self, work: Work):
        self._work = work
        with tempfile.TemporaryDirectory(prefix="shortcut-bulk-") as folder:
            if work.measured:
                Path(folder, MEASURED).write_bytes(work.measured)
            version = Path(folder, work.name, str(work.version))
            version.mkdir(parents=True)
            for name, content in work.files.items():
                (version / name).write_bytes(content)
            measurements = Measurements(work.cache, Path(folder))
            self._predictor = Predictor.open(
                version, options=work.options, measurements=measurements, max_pixels=work.max_pixels
            )
        self._labels = pyarrow.array(self._predictor.artifact.labels, pyarrow.string())

    def tables(self, chunk: Chunk) -> Iterator[pyarrow.Table]:
        """Tables of SCHEMA, in the order of the chunk. The same chunk is always cut in the same way: Ray repeats a task
        whose actor has died, and passes over the tables that it has got."""
        names: list[str] = []
        notes: list[_Note] = []
        rows: list[np.ndarray] = []
        for pictures in read(chunk, self._work.max_bytes):
            names += [picture.name for picture in pictures]
            contents = [picture.content for picture in pictures if isinstance(picture.content, bytes)]
            batches, decoded = self._predictor.rows(contents, self._work.min_probability)
            rows += batches
            more = iter(decoded)
            notes += [next(more) if isinstance(picture.content, bytes) else picture.content for picture in pictures]
            if len(names) >= TABLE_ROWS:
                yield self._table(names, notes, rows)
                names, notes, rows = [], [], []
        if names:
            yield self._table(names, notes, rows)

    def _table(self, names: list[str], notes: Sequence[_Note], rows: Sequence[np.ndarray]) -> pyarrow.Table:
        """Of SCHEMA. Built in columns: an object a picture would cost more than a small network."""
        answered = np.array([not isinstance(note, ClassifyError) for note in notes])
        doubts = [note for note in notes if not isinstance(note, ClassifyError)]
        columns = self._columns(doubts, np.concatenate(rows)) if rows else SCHEMA.empty_table()
        if not answered.all():  # rows of nulls for the others
            columns = columns.take(pyarrow.array(np.cumsum(answered) - 1, mask=~answered))
        given = {
            "file": names,
            "error": [str(note) if isinstance(note, ClassifyError) else None for note in notes],
            "code": [note.code if isinstance(note, ClassifyError) else None for note in notes],
        }
        answers = {name: columns[name] for name in SCHEMA.names if name not in given}
        return pyarrow.table(given | answers, schema=SCHEMA)

    def _columns(self, doubts: Sequence[str | None], rows: np.ndarray) -> pyarrow.Table:
        """What the model says of the pictures that could be decoded."""
        ranked = rank_all(self._predictor.artifact, rows, doubts, self._work.top_k, self._work.min_probability)
        count, kept = ranked.classes.shape
        labels = self._labels.take(pyarrow.array(ranked.classes.ravel()))
        predictions = [labels, ranked.classes.ravel().astype(np.int32), ranked.probabilities.ravel()]
        return pyarrow.table(
            {
                "label": self._labels.take(pyarrow.array(ranked.classes[:, 0])),
                "probability": ranked.probabilities[:, 0],
                "predictions": pyarrow.ListArray.from_arrays(
                    np.arange(count + 1, dtype=np.int32) * kept,
                    pyarrow.StructArray.from_arrays(predictions, fields=list(PREDICTION)),
                ),
                "unsure": pyarrow.array(ranked.unsure, pyarrow.string()),
            }
        )


def read(chunk: Chunk, max_bytes: int) -> Iterator[list[_Picture]]:
    """The chunk's pictures, some at once. One over `max_bytes`, or that cannot be read, has its error in its place."""
    if not chunk.places:
        yield from _of_parquet(chunk, max_bytes)
        return
    for start in range(0, len(chunk.places), AT_ONCE_PICTURES):
        places = chunk.places[start : start + AT_ONCE_PICTURES]
        contents = _of_disk(places, max_bytes) if chunk.protocol == "file" else _of_store(chunk, places, max_bytes)
        yield [
            _Picture(place.name, _limited(content, max_bytes)) for place, content in zip(places, contents, strict=True)
        ]


def _of_disk(places: Sequence[Place], max_bytes: int) -> Iterator[bytes | ClassifyError]:
    for place in places:
        try:
            with open(place.path, "rb") as file:  # noqa: PTH123 - a third of the time of Path(…).open()
                if place.start:
                    file.seek(place.start)
                stop = _stop(place, max_bytes)
                # Python makes room for as much as is asked for, which costs more than reading a small file.
                size = os.fstat(file.fileno()).st_size or stop  # a pipe has no size
                yield file.read(max(min(size, stop) - place.start, 0))
        except OSError as err:
            yield Unreadable(f"cannot be read: {err.strerror}")


def _of_store(chunk: Chunk, places: Sequence[Place], max_bytes: int) -> Iterator[bytes | ClassifyError]:
    """All at once, where fsspec can."""
    fs = fsspec.filesystem(chunk.protocol)
    stops = [_stop(place, max_bytes) for place in places]
    contents = fs.cat_ranges([p.path for p in places], [p.start for p in places], stops, on_error="return")
    for content in contents:
        yield Unreadable(f"cannot be read: {content!r}") if isinstance(content, Exception) else bytes(content)


def _stop(place: Place, max_bytes: int) -> int:
    """Behind the last byte to read: one more than is allowed tells that there are too many."""
    most = place.start + max_bytes + 1
    return most if place.stop is None else min(place.stop, most)


def _limited(content: bytes | ClassifyError, max_bytes: int) -> bytes | ClassifyError:
    if isinstance(content, bytes) and len(content) > max_bytes:
        return BodyTooLarge(f"the picture is larger than {max_bytes:,} bytes (SHORTCUT_MAX_BODY_BYTES)")
    return content


def _of_parquet(chunk: Chunk, max_bytes: int) -> Iterator[list[_Picture]]:
    wanted = set(chunk.rows)
    row = chunk.first
    pictures: list[_Picture] = []
    size = 0
    with fsspec.filesystem(chunk.protocol).open(chunk.path, "rb") as stream:
        parquet = pyarrow.parquet.ParquetFile(stream, pre_buffer=False)
        column = [chunk.column]
        for batch in parquet.iter_batches(AT_ONCE_PICTURES, row_groups=[chunk.row_group], columns=column):
            for value in batch.column(0):
                if row in wanted:
                    content = _limited(_bytes(value), max_bytes)
                    pictures.append(_Picture(f"{chunk.name}#{row}", content))
                    size += len(content) if isinstance(content, bytes) else 0
                row += 1
                if len(pictures) >= AT_ONCE_PICTURES or size > AT_ONCE_BYTES:
                    yield pictures
                    pictures, size = [], 0
    if pictures:
        yield pictures


def _bytes(value: Any) -> bytes:
    """Empty where the cell is, which the decoder then says."""
    cell = value.as_py()
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    return cell or b""


def artifact_files(folder: Path) -> dict[str, bytes]:
    """What an actor needs of a version's folder."""
    try:
        return {name: (folder / name).read_bytes() for name in ("model.onnx", "golden.npz", "card.json")}
    except OSError as err:
        raise StartError(f"{err.filename}: cannot be read ({err.strerror})") from err
