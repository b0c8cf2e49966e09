"""What the edge reaches behind the public API for: an upgrade that changes it fails here, with a sentence."""

import inspect
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import bentoml
import pytest
import uvicorn
import uvicorn.server

from serving.edge import seams

METHODS = {
    "startup": ["self", "sockets"],
    "on_tick": ["self", "counter"],
    "handle_exit": ["self", "sig", "frame"],
    "shutdown": ["self", "sockets"],
}


@pytest.mark.parametrize("name", METHODS)
def test_uvicorns_server_has_the_methods_that_ours_overrides(name: str) -> None:
    method = getattr(uvicorn.Server, name, None)
    assert method is not None, (
        f"uvicorn {uvicorn.__version__} has no Server.{name}: serving/edge/server.py overrides it"
    )
    signature = list(inspect.signature(method).parameters)
    assert signature == METHODS[name], f"uvicorn {uvicorn.__version__}: Server.{name}{signature} has changed"


def test_uvicorns_server_state_holds_connections_tasks_and_headers() -> None:
    state = uvicorn.server.ServerState()
    for name in ("connections", "tasks", "default_headers"):
        assert hasattr(state, name), f"uvicorn {uvicorn.__version__}: ServerState.{name} is gone; Server relies on it"


def test_uvicorns_server_asks_each_connection_to_shut_down_and_waits_for_the_set_to_empty() -> None:
    source = inspect.getsource(uvicorn.Server.shutdown) + inspect.getsource(uvicorn.Server._wait_tasks_to_complete)
    for used in ("connection.shutdown()", "self.server_state.connections", "timeout_graceful_shutdown", "_wait_tasks"):
        assert used in source, f"uvicorn {uvicorn.__version__}: Server.shutdown does not use {used} any more"
    assert "_captured_signals" in inspect.getsource(uvicorn.Server.capture_signals)


def test_bentomls_worker_makes_its_server_by_the_name_that_is_replaced() -> None:
    from _bentoml_impl.worker import service

    source = inspect.getsource(service)
    assert "uvicorn.Server(config).run(sockets=[socket])" in source, (
        f"BentoML {bentoml.__version__}: its worker makes its server in another way; seams.install has no effect"
    )


def test_bentoml_brings_swagger() -> None:
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert (seams.SWAGGER / name).is_file(), f"BentoML {bentoml.__version__}: {seams.SWAGGER / name} is not there"


def test_bentoml_decides_by_this_variable_whether_dead_workers_are_replaced() -> None:
    from bentoml import serving

    source = inspect.getsource(serving)
    where = f"BentoML {bentoml.__version__}"
    assert "BENTOML_CONTAINERIZED" in source, f"{where}: see whether workers are replaced in a container without it"


def test_bentomls_serve_command_has_a_host_and_a_port() -> None:
    from bentoml._internal.container import BentoMLContainer

    with warnings.catch_warnings():  # of its dependencies
        warnings.simplefilter("ignore")
        from bentoml_cli.serve import build_serve_command

    names = {parameter.name for parameter in build_serve_command().commands["serve"].params}
    assert {"host", "port"} <= names, f"BentoML {bentoml.__version__}: seams.address finds no host and port any more"
    assert isinstance(BentoMLContainer.http.port.get(), int)
    assert isinstance(BentoMLContainer.http.host.get(), str)


def test_the_parent_reaps_workers_by_the_method_that_is_wrapped() -> None:
    from circus.arbiter import Arbiter
    from circus.watcher import Watcher

    assert list(inspect.signature(Watcher.reap_process).parameters) == ["self", "pid", "status"]
    assert "watcher.reap_process(pid, status)" in inspect.getsource(Arbiter.reap_processes)
    manage = inspect.getsource(Watcher.manage_processes)
    assert "if self.respawn:" in manage
    assert "yield self._stop()" in manage
    assert "No active process found for watcher" in inspect.getsource(Arbiter.manage_watchers)


class FakeWatcher:
    """As much of circus' watcher as reaping asks."""

    def __init__(self, active: bool = True):
        self.active = active
        self.respawn = True
        self.processes = {7: SimpleNamespace(age=lambda: 3.5)}

    def is_active(self) -> bool:
        return self.active


@pytest.mark.parametrize(
    ("process", "status", "active", "seen"),
    [(7, 9, True, [(7, 9, 3.5)]), (8, 9, True, []), (7, None, True, []), (7, 15, False, [])],
)
def test_only_workers_that_ended_by_themselves_are_told(
    monkeypatch: pytest.MonkeyPatch, process: int, status: int | None, active: bool, seen: list[Any]
) -> None:
    from circus.watcher import Watcher

    reaped, told = [], []
    monkeypatch.setattr(Watcher, "reap_process", lambda watcher, pid, status=None: reaped.append((pid, status)))
    seams.watch_workers(lambda *arguments: bool(told.append(arguments)))
    watcher = FakeWatcher(active)
    Watcher.reap_process(watcher, process, status)
    assert (reaped, told) == ([(process, status)], seen)
    assert watcher.respawn is not bool(seen)


# The parent is told to stop while it starts its workers
STOPPED_WHILE_IT_STARTS = """
import os, signal, sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.watcher import Watcher
from serving.edge import seams

if sys.argv[1:] == ["ours"]:
    seams.keep_stop_signals()
arbiter = create_standalone_arbiter([Watcher("worker", "sleep", ["60"], numprocesses=2, warmup_delay=0.2)])

def tell():
    print(arbiter._exclusive_running_command)
    os.kill(os.getpid(), signal.SIGTERM)

def started(_):
    arbiter.loop.call_later(2, end)

def end():
    if not arbiter._stopping:
        print("lost")
        arbiter.stop()

arbiter.loop.add_callback(tell)
arbiter.start(cb=started)
print("ended with", len(arbiter.watchers[0].processes))
"""


@pytest.mark.parametrize("handler", ["theirs", "ours"])
def test_a_signal_while_workers_start_ends_the_service(handler: str) -> None:
    """Theirs shows why; once it does not lose the signal any more, ours can go."""
    command = [sys.executable, "-W", "ignore", "-c", STOPPED_WHILE_IT_STARTS, handler]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lost = [] if handler == "ours" else ["lost"]
    assert printed.stdout.splitlines() == ["arbiter_start_watchers", *lost, "ended with 0"], printed.stderr
