"""The CSV of a folder's answers: one run at a time, changed pictures, formulas in cells, other systems."""

import csv
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from serving.client import files, table
from serving.client.__main__ import main
from serving.client.protocol import Answer, Prediction
from serving.client.table import BOM, Table
from serving.errors import InvalidImage
from tests.fixtures import server
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import ROOT

SEVEN, THREE = encode(digit("7")), encode(digit("3"))


def answer(label: str) -> Answer:
    return Answer("m", 1, (Prediction(label, 0, 0.5),))


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))[1:]


def ask(service: server.Client, folder: Path, output: Path, *more: str) -> list[str]:
    url = f"http://127.0.0.1:{service.port}"
    return ["classify-folder", str(folder), "--url", url, "--output", str(output), *more]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in (("a.png", SEVEN), ("b.png", THREE)):
        (folder / name).write_bytes(data)
    return folder


# One run at a time


def test_second_run_on_one_table_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "answers.csv")
    first = Table(path, 1)
    program = f"from serving.client.table import Table; Table({path!r}, 1)"
    second = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "another run writes to it" in second.stderr
    first.add([("a.png", answer("7"))])
    first.close()
    Table(path, 1).close()  # the lock goes with the run
    assert len(rows(Path(path))) == 1


def test_lock_stays_when_lines_are_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "answers.csv")
    old = Table(path, 1, {"a.png": "1", "b.png": "1"})
    old.add([("a.png", answer("7")), ("b.png", answer("3"))])
    old.close()
    new = Table(path, 1, {"a.png": "2", "b.png": "1"})
    with pytest.raises(ValueError, match="another run"):
        Table(path, 1)
    new.close()
    assert [row[0] for row in rows(Path(path))] == ["b.png"]
    assert os.listdir(tmp_path) == ["answers.csv"]  # noqa: PTH208


@pytest.mark.parametrize("line", ["a.png,7\r\n", "\r\n", f"{'a' * 200_000},7,1,,m,1,,,\r\n"])
def test_lines_of_somebody_else_are_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.csv"
    Table(str(path), 1).close()
    path.write_bytes(path.read_bytes() + line.encode())
    with pytest.raises(ValueError, match=r"answers\.csv holds something else than answers"):
        Table(str(path), 1)
    assert path.read_bytes().endswith(line.encode())
    path.unlink()
    Table(str(path), 1).close()  # no lock is left


def test_answers_go_into_a_file_only(tmp_path: Path) -> None:
    for path in ("/dev/null", str(tmp_path)):
        with pytest.raises(ValueError, match="is no file"):
            Table(path, 1)


# Changed pictures


def test_changed_picture_is_asked_about_again(service: server.Client, tmp_path: Path, pictures: Path) -> None:
    output = tmp_path / "answers.csv"
    assert main(ask(service, pictures, output)) == 0
    assert {row[0]: row[1] for row in rows(output)} == {"a.png": "7", "b.png": "3"}
    (pictures / "a.png").write_bytes(THREE)
    os.utime(pictures / "a.png", (1, 1))  # older than the table, and still another picture
    (pictures / "c.png").write_bytes(b"no picture")
    assert main(ask(service, pictures, output)) == 1
    assert {row[0]: row[1] for row in rows(output)} == {"a.png": "3", "b.png": "3", "c.png": ""}
    (pictures / "c.png").write_bytes(SEVEN)
    assert main(ask(service, pictures, output)) == 0
    assert {row[0]: row[1] for row in rows(output)} == {"a.png": "3", "b.png": "3", "c.png": "7"}


def test_what_tools_leave_is_left_out(service: server.Client, tmp_path: Path, pictures: Path) -> None:
    (pictures / "__MACOSX").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", "__MACOSX/._a.png"):
        (pictures / name).write_bytes(b"something of a tool")
    output = tmp_path / "answers.csv"
    assert main(ask(service, pictures, output)) == 0
    assert sorted(row[0] for row in rows(output)) == ["a.png", "b.png"]


def test_missing_folder_leaves_no_table(
    service: server.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.csv"
    assert main(ask(service, tmp_path / "nowhere", output)) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not output.exists()
    (tmp_path / "file").touch()
    assert main(ask(service, tmp_path / "file", output)) == 1
    assert not output.exists()


# Spreadsheets


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@SUM(A1).png", "\ta.png", "'a.png", "'=1.png"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    path = tmp_path / "answers.csv"
    first = Table(str(path), 1)
    first.add([(name, answer("=cmd|' /C calc'!A0")), (name + "2", InvalidImage("-no picture"))])
    first.close()
    for row in rows(path):
        assert [cell for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")] == []
    again = Table(str(path), 1)
    assert again.done == {name, name + "2"}  # and the next run knows them
    assert again.refused == {name + "2"}
    again.close()


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    made = Table(str(tmp_path / "answers.csv"), 1)
    made.add([("a.png", answer("-5"))])
    made.close()
    assert rows(tmp_path / "answers.csv")[0][1] == "-5"


def test_mark_for_spreadsheets(service: server.Client, tmp_path: Path, pictures: Path) -> None:
    output, plain = tmp_path / "marked.csv", tmp_path / "plain.csv"
    assert main(ask(service, pictures, output, "--bom")) == 0
    assert output.read_bytes().startswith(BOM + b"file,label")
    (pictures / "ä.png").write_bytes(SEVEN)
    assert main(ask(service, pictures, output)) == 0  # goes on with it, and keeps the mark
    assert output.read_bytes().count(BOM) == 1
    assert len(rows(output)) == 3
    assert main(ask(service, pictures, plain)) == 0
    assert plain.read_bytes().startswith(b"file,label")


# Other systems. (Not run on Windows: what Python has there is put in the place of what it has here.)


def test_table_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[tuple[int, int]] = []
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2  # type: ignore[attr-defined]
    msvcrt.locking = lambda file, mode, count: locked.append((mode, count))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    flags: list[int] = []
    really_open = os.open
    monkeypatch.setattr(os, "O_BINARY", 1 << 30, raising=False)

    def opened(path: str, asked: int, mode: int = 0o777) -> int:
        flags.append(asked)
        return really_open(path, asked & ~os.O_BINARY, mode)  # type: ignore[attr-defined]

    monkeypatch.setattr(table.os, "open", opened)
    made = Table(str(tmp_path / "answers.csv"), 1)
    made.add([("a.png", answer("7"))])
    made.close()
    assert locked == [(2, 1)]
    assert all(asked & os.O_BINARY for asked in flags)  # type: ignore[attr-defined]
    assert b"\r\r\n" not in (tmp_path / "answers.csv").read_bytes()
    assert rows(tmp_path / "answers.csv")[0][:2] == ["a.png", "7"]


def test_files_on_windows(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK")
    assert files._read_file(str(pictures / "a.png")) == SEVEN
    monkeypatch.setattr(files.os, "sep", "\\")
    assert files.slashed("C:\\pictures\\b") == "C:/pictures/b"


def test_nothing_but_httpx_is_needed(pictures: Path) -> None:
    """Of what is installed, httpx and what it brings along are to be found."""
    allowed = {"httpx", "httpcore", "h11", "anyio", "certifi", "idna", "sniffio", "typing_extensions"}
    program = f"""
import sys, sysconfig
from importlib.machinery import PathFinder
class Only:
    def find_spec(self, name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        installed = found and found.origin and "site-packages" in found.origin
        if installed and name.partition(".")[0] not in {allowed!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Only())
from serving.client.__main__ import main
sys.exit(main(["classify-folder", {str(pictures)!r}, "--help"]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--cacert" in done.stdout
