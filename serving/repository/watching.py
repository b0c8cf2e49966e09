"""SHORTCUT_WATCH=1: new and removed versions in models/ are taken up without a restart.

A thread of each worker looks at the folder and lets the repository load what is new beside what is served; the switch
is one assignment, and requests that are under way keep what they have. Workers load in turn, so that the others' cores
stay with the requests. Knows no model.
"""

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving.errors import StartError
from serving.processes import give_memory_back
from serving.repository.models import Repository

log = logging.getLogger("shortcut")

LOOK_SECONDS = 1.0


def start(current: Repository, switch: Callable[[Repository], None], lock: Path | None) -> None:
    """Watch in the background, for ever. `lock` is a file that all workers lock while they load, if there is one."""
    threading.Thread(target=_watch, args=(current, switch, lock), name="watch", daemon=True).start()


def take_faster(current: Callable[[], Repository], for_ever: bool, lock: Path | None) -> None:
    """In the background, move each model to its fastest backend, which is measured if nobody knows it yet, and to
    another where the pictures that come ask for it; `for_ever` where models may come later. `lock` as for `start`."""
    threading.Thread(target=_take_faster, args=(current, for_ever, lock), name="measure", daemon=True).start()


def _take_faster(current: Callable[[], Repository], for_ever: bool, lock: Path | None) -> None:
    while for_ever or any(served.model.measuring or served.model.traffic is not None for served in current()):
        time.sleep(LOOK_SECONDS)
        moved = False
        for served in current():
            if served.model.unsuited:
                moved = True
                try:
                    with _locked(lock):
                        served.take_faster()
                except Exception:  # the model is served as it was
                    log.exception("%s is not measured", served.model.name)
        del served
        if moved:
            give_memory_back()


def _watch(current: Repository, switch: Callable[[Repository], None], lock: Path | None) -> None:
    logged = ""
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            with _locked(lock):
                new = current.renewed()
        except StartError as err:
            if str(err) != logged:
                log.error("models are not changed: %s", err)
            logged = str(err)
            continue
        except Exception as err:  # never the end of watching
            if str(err) != logged:
                log.exception("models are not changed")
            logged = str(err)
            continue
        logged = ""
        if new is None:
            continue
        for path, refusal in new.refused.items():
            if path not in current.refused or current.refused[path].reason != refusal.reason:
                log.error("%s is refused: %s", path, refusal.reason)
        for served in new:
            if all(served is not old for old in current):
                log.info("now served: %s", served.model)
        switch(new)
        new.replace(current)
        current = new


@contextlib.contextmanager
def _locked(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
