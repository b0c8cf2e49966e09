"""A SOURCE -> chunks of pictures to answer: which bytes of which files, without reading a picture.

A source is a folder, a list of files, a picture, a Parquet file or an uncompressed tar, on a disk or wherever fsspec
reaches. Knows nothing of models or Ray.
"""

import fnmatch
import os
import sys
import tarfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import pyarrow
import pyarrow.parquet

from serving.classify import SUFFIXES, TOOLS

LISTS = {".txt", ".lst", ".list"}
CHUNK_PICTURES = 512
CHUNK_BYTES = 32 * 1024 * 1024  # fewer where the pictures are large, so that progress shows and little is lost
# A task costs Ray some 20 ms of a core, whatever it computes. So it has as many chunks as compute for TASK_SECONDS. It
# has no more than TASK_CHUNKS, since decoding takes its time too. And an actor has at least ACTOR_TASKS: with fewer the
# last task would run alone for long.
TASK_SECONDS = 2.0
TASK_CHUNKS = 8
ACTOR_TASKS = 8
UNKNOWN_BYTES = 512 * 1024  # what a picture is taken to have, where the source does not say
IMAGE_COLUMNS = ("image", "bytes", "content", "data", "jpg", "png")  # of Parquet, where --column names none


class SourceError(Exception):
    """One line that says what is wrong with a source."""


class Place(NamedTuple):
    """Where the bytes of one picture are. `stop` is None for the whole file."""

    name: str
    path: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Chunk:
    """What one task answers. Either `places`, or the `rows` (from the file's first) of one row group of a Parquet file,
    whose own first row is `first`. `protocol` is fsspec's."""

    protocol: str
    places: tuple[Place, ...] = ()
    name: str = ""
    path: str = ""
    column: str = ""
    row_group: int = 0
    first: int = 0
    rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.places) or len(self.rows)


def chunks_a_task(chunks: Sequence[Chunk], image_seconds: float, actors: int) -> int:
    """How many one task has, at least one. `image_seconds` is what the model takes for a picture."""
    seconds = image_seconds * sum(map(len, chunks)) / len(chunks)
    return max(1, min(int(TASK_SECONDS / seconds), TASK_CHUNKS, len(chunks) // (ACTOR_TASKS * actors)))


class _File(NamedTuple):
    protocol: str
    path: str
    name: str  # as the answer names it
    bytes: int | None


def chunks(source: str, done: Container[str] = (), column: str | None = None) -> Iterator[Chunk]:
    """The pictures of `source` whose names are not in `done`, each once. Raises SourceError."""
    seen: set[str] = set()
    pending: list[Place] = []
    size = 0
    protocol = ""
    for file in files(source):
        _refuse_compressed(file.path)
        suffix = _suffix(file.path)
        if suffix == ".parquet":
            yield from _of_parquet(file, done, seen, column)
            continue
        for place, length in _of_tar(file) if suffix == ".tar" else [(Place(file.name, file.path), file.bytes)]:
            if place.name in done or place.name in seen:
                continue
            seen.add(place.name)
            length = UNKNOWN_BYTES if length is None else length
            full = len(pending) >= CHUNK_PICTURES or size + length > CHUNK_BYTES
            if pending and (full or file.protocol != protocol):
                yield Chunk(protocol, tuple(pending))
                pending, size = [], 0
            protocol = file.protocol
            pending.append(place)
            size += length
    if pending:
        yield Chunk(protocol, tuple(pending))


def files(source: str) -> list[_File]:
    """The files that `source` means: pictures, or where a folder has none, its tars, or its Parquet files."""
    if source == "-":
        return list(_listed(sys.stdin.read().splitlines(), "", "standard input"))
    fs, _, path = _file_system(source)
    try:
        if any(letter in path for letter in "*?["):
            entries = fs.glob(path, detail=True)
            if not entries:
                raise SourceError(f"{source}: no file fits this pattern")
            return [_file(fs, name, info) for name, info in sorted(entries.items()) if info.get("type") != "directory"]
        if fs.isfile(path):
            if _suffix(path) in LISTS:
                base = source.rpartition("/")[0]
                lines = fs.cat_file(path).decode("utf-8", "surrogateescape").splitlines()
                return list(_listed(lines, base, source))
            return [_file(fs, path, fs.info(path))]
        if not fs.isdir(path):
            raise SourceError(f"{source}: no such file or folder")
        return _of_folder(fs, path, source)
    except OSError as err:
        raise SourceError(f"{source}: cannot be read ({err.strerror or err})") from err


def _of_folder(fs: Any, folder: str, source: str) -> list[_File]:
    local = _protocol(fs) == "file"
    # What fsspec tells of a local file is ten times as large as its name.
    entries: dict[str, Any] = dict.fromkeys(_below(folder)) if local else fs.find(folder, detail=True)
    seen = sorted(path for path in entries if not _hidden(path, folder))
    for suffixes in (SUFFIXES, {".tar"}, {".parquet"}):
        if fitting := [path for path in seen if _suffix(path) in suffixes]:
            return [_file(fs, path, {"size": _length(path)} if local else entries[path]) for path in fitting]
    raise SourceError(f"{source}: no picture, tar or Parquet file by its name among {len(entries):,} files")


def _below(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(parent, name)  # noqa: PTH118 - Path costs more than the call


def _hidden(path: str, folder: str) -> bool:
    """Whether it lies where tools keep their own files."""
    inner = path.removeprefix(folder.rstrip("/")).split("/")
    return any(part.startswith(".") or part in TOOLS for part in inner)


def _listed(lines: Iterable[str], base: str, source: str) -> Iterator[_File]:
    """A file for each line; a relative path is one from the list's own folder `base`."""
    empty = True
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        empty = False
        absolute = "://" in line or line.startswith("/") or not base
        _, protocol, path = _file_system(line if absolute else f"{base}/{line}")
        yield _File(protocol, path, _written(line), _length(path) if protocol == "file" else None)
    if empty:
        raise SourceError(f"{source}: lists no file")


def _length(path: str) -> int | None:
    """Of a local file. None where it is missing, which its answer will say."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - as above
    except OSError:
        return None


def _file_system(url: str) -> tuple[Any, str, str]:
    """fsspec's file system of `url`, its protocol, and the path in it."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as err:  # the package that knows the protocol is missing, or nobody knows it
        raise SourceError(f"{url}: {err}") from err
    return fs, _protocol(fs), str(path)


def _protocol(fs: Any) -> str:
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def _file(fs: Any, path: str, info: dict[str, Any]) -> _File:
    protocol = _protocol(fs)
    name = _written(_relative(path)) if protocol == "file" else fs.unstrip_protocol(path)
    size = info.get("size")
    return _File(protocol, path, name, None if size is None else int(size))


def _relative(path: str) -> str:
    """From the working directory where it lies below that, as a person names it."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))  # noqa: PTH109, PTH118 - as above


def _written(name: str) -> str:
    """As UTF-8 can say it: a disk may have names that are no text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - as above


def _refuse_compressed(path: str) -> None:
    name = path.lower()
    if fnmatch.fnmatch(name, "*.tar.*") or name.endswith((".tgz", ".tbz2", ".txz")):
        raise SourceError(f"{path}: is a compressed tar, of which no part can be read alone: decompress it first")


def _of_tar(file: _File) -> Iterator[tuple[Place, int]]:
    """Every picture in an uncompressed tar, as WebDataset writes it. Only the headers are read."""
    try:
        with (
            fsspec.filesystem(file.protocol).open(file.path, "rb") as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                if member.isfile() and _suffix(member.name) in SUFFIXES and not _hidden(f"/{member.name}", ""):
                    start = member.offset_data
                    place = Place(f"{file.name}#{member.name}", file.path, start, start + member.size)
                    yield place, member.size
    except (tarfile.TarError, OSError) as err:
        raise SourceError(f"{file.name}: is no readable tar ({err})") from err


def _of_parquet(file: _File, done: Container[str], seen: set[str], column: str | None) -> Iterator[Chunk]:
    """A chunk for each row group. A picture's name is `<file>#<row>`."""
    if file.name in seen:
        return
    seen.add(file.name)
    try:
        with fsspec.filesystem(file.protocol).open(file.path, "rb") as stream:
            parquet = pyarrow.parquet.ParquetFile(stream)
            column = _image_column(file.name, parquet.schema_arrow, column)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as err:
        raise SourceError(f"{file.name}: is no readable Parquet file ({str(err).splitlines()[0]})") from err
    first = 0
    for group, size in enumerate(sizes):
        rows = tuple(row for row in range(first, first + size) if f"{file.name}#{row}" not in done)
        if rows:
            yield Chunk(file.protocol, (), file.name, file.path, column, group, first, rows)
        first += size


def _image_column(name: str, schema: Any, wanted: str | None) -> str:
    """The column that holds pictures: binary, or a struct with binary `bytes`, as Hugging Face's datasets write it."""
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        if wanted not in fitting:
            there = ", ".join(fitting) or "none"
            raise SourceError(f"{name}: --column {wanted}: no such column of pictures; binary columns: {there}")
        return wanted
    for known in IMAGE_COLUMNS:
        if known in fitting:
            return known
    if len(fitting) == 1:
        return str(fitting[0])
    there = ", ".join(fitting) or "none"
    raise SourceError(f"{name}: say with --column which one holds the pictures; binary columns: {there}")


def _holds_bytes(kind: Any) -> bool:
    if pyarrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
