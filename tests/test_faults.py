"""Workers that die, and disks that take nothing: the service goes on."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from serving.errors import StartError
from serving.operations import shared as scratch
from tests.edge.test_draining import serving_workers
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import PYTHON, Client, running

PICTURE = encode(colours())
CLIENTS = 8
REPLACED_SECONDS = 90  # then something is wrong, however busy the machine is; BentoML looks every 10 s


def workers_of(client: Client) -> set[int]:
    children = psutil.Process(client.process).children(recursive=True)
    return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}


class Clients:
    """They ask all the time, each on its own connection, and connect again when that breaks."""

    def __init__(self, client: Client):
        self.statuses: Counter[int] = Counter()
        self.broken: list[str] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _ask(self) -> None:
        while not self._stop.is_set():
            connection = self._client.connection()
            try:
                while not self._stop.is_set():
                    connection.request("POST", "/classify", PICTURE, {"Content-Type": "image/png"})
                    response = connection.getresponse()
                    response.read()
                    self.statuses[response.status] += 1
                    if response.getheader("connection") == "close":
                        break
                    time.sleep(0.02)  # the machine has more to do
            except (OSError, HTTPException) as err:
                self.broken.append(repr(err))
            finally:
                connection.close()


def test_a_killed_worker_costs_its_own_requests_only_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "True")  # as in the image, where BentoML would not replace the worker
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "2"}
    with running(tmp_path / "log", **settings) as client:
        wait_for_workers(client, 30)
        before = workers_of(client)
        assert counted(client) > 0
        with Clients(client) as clients:
            time.sleep(1)
            os.kill(min(before), signal.SIGKILL)
            killed = time.monotonic()
            time.sleep(1)  # no new worker can be there yet: the other answers
            answered = clients.statuses[200]
            time.sleep(1)
            assert clients.statuses[200] > answered
            wait_for_workers(client, REPLACED_SECONDS - (time.monotonic() - killed))
            time.sleep(1)
        assert set(clients.statuses) == {200}
        assert len(clients.broken) <= CLIENTS, clients.broken  # what the dead one had in hand, each connection once
        after = workers_of(client)
        assert len(after) == 2
        assert abs(counted(client) - clients.statuses[200]) < 100  # none twice, and of the dead one's but the last
        place = Path(psutil.Process(max(after)).environ()["_SHORTCUT_SHARED"])
        assert len([*place.glob("counter_*.db")]) == 2  # the new one goes on where the dead one stopped
        assert min(before) not in after
        assert f"worker {min(before)} ended after" in (tmp_path / "log").read_text()
        assert ": SIGKILL, " in (tmp_path / "log").read_text()


def counted(client: Client) -> float:
    """Answers of /classify."""
    assert client.post("/classify", PICTURE).status == 200
    time.sleep(0.1)  # until another worker's /metrics knows of it
    text = client.get("/metrics").body.decode()
    return float(
        text.partition('shortcut_requests_total{protocol="native",route="/classify",status="200"} ')[2].split()[0]
    )


def wait_for_workers(client: Client, seconds: float) -> None:
    """Until two workers serve the model."""
    deadline = time.monotonic() + seconds
    while serving_workers(client) != "2.0":
        assert time.monotonic() < deadline, "no second worker"
        time.sleep(0.1)


ISOLATED = ["unshare", "--mount", "sh", "-euc"]
# As a container's read-only root: nothing can be written but memory.
READ_ONLY = """
mount --bind / /
mount -o remount,bind,ro /
cd "$OLDPWD"
if touch here 2>/dev/null; then exit 9; fi
exec "$@"
"""
# The temporary folder, the home and the working directory's caches are on one disk, and that is full. (The checkout may
# be in one of them: it is put back.)
FULL = """
mkdir "$HOME/../checkout"
mount --bind "$OLDPWD" "$HOME/../checkout"
mount -t tmpfs -o size=64k none /tmp
mount -t tmpfs -o size=64k none /var/tmp
mkdir -p "$OLDPWD"
mount --bind "$HOME/../checkout" "$OLDPWD"
mount -t tmpfs -o size=64k none "$HOME"
for folder in /tmp /var/tmp "$HOME"; do dd if=/dev/zero of=$folder/all bs=1k 2>/dev/null || true; done
cd "$OLDPWD"
exec "$@"
"""


def isolation_works() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def running_on(script: str, folder: Path) -> Iterator[Client]:
    """The service with its own view of the file systems; its models stay outside of /tmp."""
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "workers": "2"}
    with running(folder / "log", within=[*ISOLATED, f"cd /; {script}", "sh"], **settings) as client:
        yield client


@pytest.mark.skipif(not isolation_works(), reason="mount namespaces need root")
# On a full disk less can be written than on a read-only one; the container's tests run the image on that too.
@pytest.mark.parametrize(
    "script", [pytest.param(READ_ONLY, marks=pytest.mark.thorough, id="read-only"), pytest.param(FULL, id="full")]
)
def test_a_disk_that_takes_nothing_does_not_hurt_serving(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with place_outside_tmp() as folder:
        home = folder / "home"
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        subprocess.run([PYTHON, "-m", "bentoml", "list"], check=True, capture_output=True)  # makes its folders
        with running_on(script, folder) as client:
            wait_for_workers(client, 30)
            for _ in range(20):
                assert client.post("/classify", PICTURE).status == 200
            big = encode(colours((1500, 1000)), "BMP")
            assert client.post("/classify", big).status == 200
            text = client.get("/metrics").body.decode()
            assert 'shortcut_requests_total{protocol="native",route="/classify",status="200"}' in text
        log = (folder / "log").read_text()
        assert "Traceback" not in log
        assert "elemetry" not in log  # ONNX Runtime's, which would want to write an identifier


@contextmanager
def place_outside_tmp() -> Iterator[Path]:
    folder = Path(
        subprocess.run(["mktemp", "-d", "-p", "/opt"], capture_output=True, text=True, check=True).stdout[:-1]
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.thorough  # the last test here shows that there is no folder then, one of test_metrics.py what follows
def test_a_full_memory_disk_costs_the_shared_metrics_only(tmp_path: Path) -> None:
    """/dev/shm is full when the service starts and nothing else takes its place."""
    if not isolation_works():
        pytest.skip("mount namespaces need root")
    script = """
    mount -t tmpfs -o size=1m none /dev/shm
    mkdir /dev/shm/tmp
    dd if=/dev/zero of=/dev/shm/all bs=1k count=900 2>/dev/null
    exec "$@"
    """
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "2"}
    within = [*ISOLATED, f"{script}", "sh", "env", "TMPDIR=/dev/shm/tmp"]
    with running(tmp_path / "log", within=within, **settings) as client:
        for _ in range(50):
            assert client.post("/classify", PICTURE).status == 200
        assert serving_workers(client) == "1.0"  # of the worker that was asked
    assert "metrics are not shared between workers" in (tmp_path / "log").read_text()


def test_a_place_that_cannot_be_written_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_of_them() -> str:
        raise FileNotFoundError("none of /tmp, /var/tmp")

    monkeypatch.setattr(tempfile, "gettempdir", none_of_them)
    monkeypatch.setattr(scratch, "MEMORY", "/no/such/folder")
    with pytest.raises(StartError, match="temporary files: none of /tmp, /var/tmp; nor can /no/such/folder be written"):
        scratch.need_temporary_files()


def test_without_room_anywhere_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_SHORTCUT_SHARED", raising=False)
    assert scratch.create(2**60) is None
    assert scratch.folder() is None
