"""What the edge needs behind the public API of uvicorn and BentoML, each with its version, reason and gain.

`tests/edge/test_seams.py` asserts every name and signature that is used here, so that an upgrade that changes one fails
with a sentence.
"""

import os
from collections.abc import Callable
from pathlib import Path

import bentoml
import click
import uvicorn
from bentoml._internal.container import BentoMLContainer
from circus.sighandler import SysHandler  # type: ignore[import-untyped]
from circus.watcher import Watcher  # type: ignore[import-untyped]

from serving.edge.address import Address
from serving.edge.server import Server
from serving.edge.worker import Edge

# BentoML 1.4.39 brings swagger-ui in its package: 1.6 MB that need not be downloaded, pinned or packed again.
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
BUSY_SECONDS = 0.1  # after which the parent is looked at again, where it cannot stop yet


def let_bentoml_replace_workers() -> None:
    """BentoML 1.4.39 does not replace a worker that died where BENTOML_CONTAINERIZED is set (in its images) when the
    service is imported: one fault in native code would then end half of the service for good."""
    os.environ.pop("BENTOML_CONTAINERIZED", None)


def watch_workers(ended: Callable[[int, int, float], bool]) -> None:
    """In the parent, before it starts workers: `ended` is told the process id, the status of waitpid and the age in
    seconds of each worker that ends by itself. Where it says no, no more are started.

    circus 0.18.3 under BentoML 1.4.39 replaces a worker every 10 s, without a word and without end. Once the last one
    has ended too, it ends the service with an error.
    """
    reap = Watcher.reap_process

    def reap_process(watcher: Watcher, pid: int, status: int | None = None) -> None:
        if status is not None and pid in watcher.processes and watcher.is_active():
            watcher.respawn = ended(pid, status, watcher.processes[pid].age()) and watcher.respawn
        reap(watcher, pid, status)

    Watcher.reap_process = reap_process


def keep_stop_signals() -> None:
    """In the parent, before it starts workers: SIGTERM and SIGINT end the service whenever they come.

    circus 0.18.3 under BentoML 1.4.39 drops them without a word while it starts or replaces workers: it runs one
    command at a time and refuses `quit` meanwhile. Whoever sent the signal would wait, and then kill the service.
    """
    ask = SysHandler.quit

    def ask_once_free(handler: SysHandler) -> None:
        arbiter = handler.controller.arbiter
        if arbiter._exclusive_running_command is None:
            ask(handler)
        elif not arbiter._stopping:
            handler.controller.loop.call_later(BUSY_SECONDS, ask_once_free, handler)

    def quit_service(handler: SysHandler) -> None:
        handler.controller.loop.add_callback_from_signal(ask_once_free, handler)

    SysHandler.quit = quit_service


def address() -> Address | None:
    """Where `bentoml serve` is about to listen; None where the service was not started by that command.

    BentoML 1.4.39 ends with a traceback where a port is in use or not allowed, and listens on another one where it is
    out of range.
    """
    context = click.get_current_context(silent=True)
    if context is None or "port" not in context.params:
        return None
    host, port = context.params.get("host"), context.params["port"]
    defaults = BentoMLContainer.http
    return Address(defaults.host.get() if host is None else host, defaults.port.get() if port is None else port)


def install(edge: Edge, drain_seconds: float, shared_folder: Callable[[], Path | None]) -> None:
    """Make BentoML's worker run `Server`, which speaks HTTP by `serving.edge.connection`.

    BentoML 1.4.39 makes `uvicorn.Server(config)` (uvicorn 0.54) and passes no option that would limit header bytes,
    slow clients or connections. Without ASGI a small request costs half as much (benchmarks/README.md). Not on
    Windows, where workers share no socket.
    """
    if os.name == "posix":
        attributes = {"edge": edge, "drain_seconds": drain_seconds, "shared_folder": staticmethod(shared_folder)}
        uvicorn.Server = type("ShortcutServer", (Server,), attributes)  # type: ignore[assignment, misc]
