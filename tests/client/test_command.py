"""`python -m serving.client`: every file is asked about once, whatever its name, its content and the run's end."""

import csv
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.client.__main__ import main
from serving.client.protocol import Answer, Prediction
from serving.client.table import Table
from serving.edge import keys
from serving.errors import InvalidImage
from tests.fixtures import server, toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import ROOT

SEVEN, THREE = encode(digit("7")), encode(digit("3"))
ODD = [b"a,b.png", b"new\nline.png", b"re\rturn.png", b'"quoted".png', b"\xff\xfe.png", b" =1+1 .png", "ä.png".encode()]


def address(service: server.Client) -> str:
    return f"http://127.0.0.1:{service.port}"


def rows(table: Path) -> list[dict[str, str]]:
    """Every line of the table; a piece of one is none."""
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
        found = list(csv.DictReader(opened))
    assert all(len(row) == len(found[0]) and None not in row.values() for row in found)
    return found


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for n in range(count):
        (path / f"{n:04}.png").write_bytes(SEVEN if n % 2 else THREE)
    return path


def ask(service: server.Client, folder: Path, output: Path, *more: str) -> list[str]:
    return ["classify-folder", str(folder), "--url", address(service), "--output", str(output), *more]


def asked(service: server.Client) -> int:
    """How many pictures the default model has decoded. (Another worker's figures come a little later.)"""
    text = service.get("/metrics").body.decode()
    (count,) = re.findall(r'^shortcut_decode_seconds_count{model="digits_cnn-mnist",version="1"} (\S+)', text, re.M)
    return int(float(count))


def test_a_folder_with_odd_names_below(service: server.Client, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "b,\nc").mkdir(parents=True)
    for n, name in enumerate(ODD):
        below = pictures / "b,\nc" if n % 2 else pictures
        (below / os.fsdecode(name)).write_bytes(SEVEN if n % 2 else THREE)
    output = pictures / "answers.csv"  # is no picture of the folder
    assert main(ask(service, pictures, output)) == 0
    expected = {(b"b,\nc/" + name if n % 2 else name): "7" if n % 2 else "3" for n, name in enumerate(ODD)}
    assert {os.fsencode(row["file"]): row["label"] for row in rows(output)} == expected
    before = output.read_bytes()
    assert main(ask(service, pictures, output)) == 0
    assert output.read_bytes() == before


def test_odd_names_are_printed_as_they_are(service: server.Client, tmp_path: Path) -> None:
    files = [bytes(tmp_path / os.fsdecode(name)) for name in ODD]
    for file in files:
        Path(os.fsdecode(file)).write_bytes(SEVEN)
    expected = service.post("/classify?top_k=1", SEVEN).json() | {"unsure": None}
    (best,) = expected["predictions"]
    command = [sys.executable, "-m", "serving.client", "classify", "--url", address(service), "--top-k", "1"]
    plain = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, check=True)
    assert plain.stdout == b"".join(file + b": 7 %.4f\n" % best["probability"] for file in files)
    as_json = subprocess.run([*command, "--json", *files], cwd=ROOT, capture_output=True, check=True)
    answers = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [os.fsencode(answer.pop("file")) for answer in answers] == files
    assert answers == [expected] * len(ODD)


def test_what_cannot_be_answered_is_told_beside_the_rest(
    service: server.Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = folder_of(tmp_path / "pictures", 3)
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "empty.png").touch()
    (pictures / "gone.png").symlink_to(pictures / "nowhere")
    os.mkfifo(pictures / "pipe")  # reading it would never end
    output = tmp_path / "answers.csv"
    for _ in range(2):  # the second time, nobody is asked
        assert main(ask(service, pictures, output)) == 1
        found = {row["file"]: row["code"] for row in rows(output)}
        refused = {"notes.txt": "invalid_image", "empty.png": "invalid_image"}
        assert found == {f"000{n}.png": "" for n in range(3)} | refused
        printed = capfd.readouterr()
        assert printed.out == f"{output}: 3 answered, 2 refused (see `code`)\n"
        gone, pipe, more = printed.err.splitlines()
        assert gone == f"{pictures / 'gone.png'}: cannot be read: No such file or directory (unreadable_file)"
        assert pipe == f"{pictures / 'pipe'}: cannot be read: no regular file (unreadable_file)"
        assert more == "2 without an answer; the same command asks about them again"
    names = ["0000.png", "notes.txt", "gone.png"]
    assert main(["classify", *[str(pictures / name) for name in names], "--url", address(service)]) == 1
    picture, notes, gone = capfd.readouterr().out.splitlines()
    assert picture.startswith(f"{pictures / '0000.png'}: 3 ")
    assert notes.endswith("(invalid_image)")
    assert gone.endswith("cannot be read: No such file or directory (unreadable_file)")


def test_a_killed_run_goes_on_without_asking_twice(service: server.Client, tmp_path: Path) -> None:
    pictures, output = folder_of(tmp_path / "pictures", 2000), tmp_path / "answers.csv"
    before = asked(service)
    options = ("--batch", "2", "--concurrency", "2")
    run = [sys.executable, "-m", "serving.client", *ask(service, pictures, output, *options)]
    started = subprocess.Popen(run, cwd=ROOT)
    while not output.exists() or output.read_bytes().count(b"\n") < 300:
        assert started.poll() is None
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    done = rows(output)
    assert 299 <= len(done) < 2000
    assert main(ask(service, pictures, output)) == 0
    assert sorted(row["file"] for row in rows(output)) == [f"{n:04}.png" for n in range(2000)]
    assert rows(output)[: len(done)] == done
    assert {row["label"] for row in rows(output) if int(row["file"][:4]) % 2} == {"7"}
    deadline = time.monotonic() + 60
    while asked(service) - before < 2000 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    assert 2000 <= asked(service) - before <= 2000 + 2 * 2  # the batches that were under way when it was killed


def test_a_table_cut_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    answer = Answer("m", 1, (Prediction("a,\nb", 0, 0.5), Prediction("c", 1, 0.25)))
    results = [(os.fsdecode(name), answer if n % 2 else InvalidImage('why, "so"')) for n, name in enumerate(ODD)]
    table = Table(str(whole), 2)
    ends = [whole.stat().st_size]
    for result in results:
        table.add([result])
        ends.append(whole.stat().st_size)
    table.close()
    content = whole.read_bytes()
    for cut in range(len(content) + 1):
        (tmp_path / "cut.csv").write_bytes(content[:cut])
        again = Table(str(tmp_path / "cut.csv"), 2)
        kept = sum(end <= cut for end in ends[1:])
        assert again.done == {name for name, _ in results[:kept]}
        assert len(again.refused) == (kept + 1) // 2
        again.add(results[kept:])
        again.close()
        assert (tmp_path / "cut.csv").read_bytes() == content


def test_a_full_disk_leaves_whole_lines(service: server.Client, tmp_path: Path) -> None:
    pictures, output = folder_of(tmp_path / "pictures", 200), tmp_path / "answers.csv"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    command = [sys.executable, "-m", "serving.client", *ask(service, pictures, output, "--batch", "8")]
    full = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.startswith("error: ")
    assert full.stderr.count("\n") == 1
    assert 0 < len(rows(output)) < 200
    assert output.read_bytes().endswith(b"\n")
    assert main(ask(service, pictures, output)) == 0
    assert len({row["file"] for row in rows(output)}) == len(rows(output)) == 200


def test_a_service_that_is_gone_ends_the_run_and_the_next_goes_on(
    service: server.Client, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.client.protocol.FIRST_WAIT", 0.001)
    pictures, output = folder_of(tmp_path / "pictures", 50), tmp_path / "answers.csv"
    assert main(ask(server.Client(server.free_port()), pictures, output)) == 1
    printed = capfd.readouterr().err
    assert printed.startswith("error: http://127.0.0.1:")
    assert printed.count("\n") == 1
    assert rows(output) == []
    assert main(ask(service, pictures, output)) == 0
    assert len(rows(output)) == 50


def test_a_table_holds_answers_of_one_version(
    service: server.Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures, output = folder_of(tmp_path / "pictures", 3), tmp_path / "answers.csv"
    assert main(ask(service, pictures, output, "--model", "toy-colours", "--version", "1", "--top-k", "5")) == 0
    best = rows(output)[0]
    assert float(best["probability"]) >= float(best["probability2"]) >= float(best["probability3"])
    assert (best["label4"], best["probability5"]) == ("", "")
    (pictures / "more.png").write_bytes(SEVEN)
    before = output.read_bytes()
    assert main(ask(service, pictures, output, "--model", "toy-colours", "--top-k", "5")) == 1
    assert "has answers of toy-colours version 1, and toy-colours version 2 answers now" in capfd.readouterr().err
    assert main(ask(service, pictures, output)) == 1
    assert "holds something else than answers with --top-k 1" in capfd.readouterr().err
    assert output.read_bytes() == before
    picture = pictures / "0000.png"
    assert main(ask(service, pictures, picture)) == 1
    assert picture.read_bytes() == THREE


def test_a_batch_that_is_too_large_is_divided(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    pictures, output = folder_of(tmp_path / "pictures", 20), tmp_path / "answers.csv"
    (pictures / "large.bmp").write_bytes(encode(colours((200, 200)), "BMP"))
    key, hashed = keys.make()
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "api_keys": hashed}
    with running_inside(tmp_path / "log", max_batch_images="3", max_batch_body_bytes="20000", **settings) as service:
        assert main(ask(service, pictures, output)) == 1
        assert rows(output) == []
        assert main(ask(service, pictures, output, "--api-key", key)) == 1
        by_variable = subprocess.run(
            [sys.executable, "-m", "serving.client", "classify", str(pictures / "0000.png"), "--url", address(service)],
            cwd=ROOT,
            env=os.environ | {"CLASSIFY_API_KEY": f"{key}\n"},
            check=False,
        )
    assert by_variable.returncode == 0
    assert {row["file"]: row["code"] for row in rows(output)} == {
        **{f"{n:04}.png": "" for n in range(20)},
        "large.bmp": "body_too_large",
    }


def test_a_bar_is_drawn_on_a_terminal_only(service: server.Client, tmp_path: Path) -> None:
    pictures, output = folder_of(tmp_path / "pictures", 40), tmp_path / "answers.csv"
    command = [sys.executable, "-m", "serving.client", *ask(service, pictures, output)]
    ours, theirs = pty.openpty()
    on_terminal = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    while b"40/40" not in shown:
        shown += os.read(ours, 4096)  # raises at the end
    os.close(ours)
    assert on_terminal.returncode == 0
    output.unlink()
    into_file = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert into_file.stderr == b""


@pytest.mark.parametrize("wrong", [("--top-k", "0"), ("--batch", "-1"), ("--concurrency", "many")])
def test_a_wrong_option_is_named(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["classify", "a.png", *wrong])
    assert wrong[0] in capsys.readouterr().err
