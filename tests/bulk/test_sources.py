"""Every kind of source names each picture once, and says in one line what it cannot take."""

import importlib.util
import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from serving.bulk import sources
from serving.bulk.sources import Chunk, Place, SourceError, chunks, chunks_a_task
from tests.bulk.conftest import pictures, write_parquet, write_tar


def names(source: Path | str, **options: object) -> list[str]:
    return [
        place.name
        for chunk in chunks(str(source), **options)  # type: ignore[arg-type]
        for place in chunk.places
    ]


def test_folder_means_the_pictures_below_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    found = names(folder)
    assert len(found) == 13
    assert found[0] == "pictures/a/000.png"
    assert "pictures/b/bad.JPG" in found


def test_answered_pictures_are_left_out(folder: Path) -> None:
    done = set(names(folder)[:4])
    assert not done & set(names(folder, done=done))
    assert len(names(folder, done=done)) == 9


def test_list_is_read_from_its_own_folder(folder: Path) -> None:
    (folder / "list.txt").write_text("# of today\na/000.png\n\nb/bad.JPG\na/000.png\nmissing.png\n")
    assert names(folder / "list.txt") == ["a/000.png", "b/bad.JPG", "missing.png"]


def test_list_comes_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/a/001.png\n"))
    assert names("-") == [f"{folder}/a/001.png"]


def test_glob_and_single_picture(folder: Path) -> None:
    assert len(names(f"{folder}/a/*.png")) == 6
    assert len(names(f"{folder}/a/000.png")) == 1


def test_object_store_prefix() -> None:
    store = fsspec.filesystem("memory")
    for name, content in pictures(3).items():
        store.pipe_file(f"/bulk-test/{name}", content)
    found = names("memory://bulk-test")
    assert found == [f"memory:///bulk-test/{i:03}.png" for i in range(3)] or found == [
        f"memory://bulk-test/{i:03}.png" for i in range(3)
    ]


def test_tar_members_are_found_by_offset(tmp_path: Path) -> None:
    contents = {**pictures(3), "000.cls": b"1", "deep/x.jpg": b"later"}
    tar = write_tar(tmp_path / "shard.tar", contents)
    (chunk,) = chunks(str(tar))
    assert [place.name.rpartition("#")[2] for place in chunk.places] == ["000.png", "001.png", "002.png", "deep/x.jpg"]
    for place in chunk.places:
        assert tar.read_bytes()[place.start : place.stop] == contents[place.name.rpartition("#")[2]]


def test_folder_of_shards(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", pictures(2))
    assert len(names(tmp_path)) == 4


def test_parquet_is_cut_by_row_groups(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", list(pictures(7).values()), 3)
    assert [chunk.rows for chunk in chunks(str(file))] == [(0, 1, 2), (3, 4, 5), (6,)]
    name = next(iter(chunks(str(file)))).name
    left = chunks(str(file), done={f"{name}#{row}" for row in (0, 1, 2, 4)})
    assert [(chunk.first, chunk.rows) for chunk in left] == [(3, (3, 5)), (6, (6,))]


def test_column_of_pictures(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [b""], 3, struct=True)
    assert next(iter(chunks(str(file)))).column == "image"
    with pytest.raises(SourceError, match="--column label: no such column of pictures; binary columns: image"):
        list(chunks(str(file), column="label"))


def test_large_pictures_make_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1000)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x" * 600)
    assert [len(chunk) for chunk in chunks(str(tmp_path))] == [1, 1, 1, 1]
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1200)
    assert [len(chunk) for chunk in chunks(str(tmp_path))] == [2, 2]


def test_task_is_worth_its_cost_and_leaves_work_for_others() -> None:
    def a_task(chunks: int, seconds: float, actors: int = 2) -> int:
        return chunks_a_task([Chunk("file", (Place("x", "x"),) * 100)] * chunks, seconds, actors)

    assert a_task(10_000, 1e-6) == sources.TASK_CHUNKS  # decoding takes time that nobody knows
    assert a_task(10_000, sources.TASK_SECONDS / 350) == 3
    assert a_task(10_000, 1.0) == 1
    assert a_task(1, 1e-6) == 1
    for actors in (1, 2, 100):
        assert 320 / a_task(320, 1e-6, actors) >= min(320, sources.ACTOR_TASKS * actors)


def test_what_cannot_be_taken_is_named(tmp_path: Path) -> None:
    compressed = tmp_path / "x.tar.gz"
    with tarfile.open(compressed, "w:gz"):
        pass
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    (tmp_path / "broken.parquet").write_bytes(b"x" * 2000)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "empty").mkdir()
    for source, told in (
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path / "empty", "no picture, tar or Parquet"),
        (tmp_path / "*.gif", "no file fits"),
        (compressed, "compressed tar"),
        (tmp_path / "broken.tar", "no readable tar"),
        (tmp_path / "broken.parquet", "no readable Parquet"),
        (tmp_path / "empty.txt", "lists no file"),
        ("nowhere://x", "nowhere"),
    ):
        with pytest.raises(SourceError, match=told) as caught:
            list(chunks(str(source)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")])
def test_store_without_its_package_says_what_to_install(scheme: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is here")
    with pytest.raises(SourceError, match=f"(?i)install.*{package}"):
        list(chunks(f"{scheme}://bucket/prefix"))
