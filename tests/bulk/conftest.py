"""Pictures in every kind of source, and what the synchronous predictor says of them."""

import io
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from serving.bulk.reading import Work, artifact_files
from serving.engine.selection import Options
from serving.repository.predictor import Predictor
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode


def pictures(count: int) -> dict[str, bytes]:
    """PNGs that differ, by name."""
    return {f"{i:03}.png": encode(colours((8 + i % 5, 9 + i % 7))) for i in range(count)}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    folder = toy.write_artifact(tmp_path / "models")
    cache = tmp_path / "cache"
    files, options = artifact_files(folder), Options("cpu")
    return Work("toy-colours", 1, files, options, cache, 1e-4, b"", Settings.max_pixels, 100_000, 2, None)


@pytest.fixture
def predictor(tmp_path: Path, work: Work) -> Predictor:
    return Predictor.open(tmp_path / "models" / "toy-colours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures in two folders, one damaged, and what tools and people leave beside them."""
    found = tmp_path / "pictures"
    for number, (name, content) in enumerate(pictures(12).items()):
        place = found / ("a" if number < 6 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    (found / "b" / "bad.JPG").write_bytes(b"no picture")
    (found / "notes.txt").write_text("not a picture")
    (found / "__MACOSX").mkdir()
    (found / "__MACOSX" / "000.png").write_bytes(b"x")
    return found


def write_tar(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_parquet(path: Path, contents: list[bytes], row_group_size: int, struct: bool = False) -> Path:
    values = [{"bytes": content, "path": None} for content in contents] if struct else contents
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]) if struct else pyarrow.binary()
    table = pyarrow.table({"label": list(range(len(contents))), "image": pyarrow.array(values, kind)})
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
    return path
