"""How a worker ended, as it stands in the log, and when no more are started."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from serving.operations.deaths import Deaths


class Room:
    """A container of 700 MB with little left."""

    killed = 0

    def left(self) -> int | None:
        return 12_000_000

    def limit(self) -> int | None:
        return 700_000_000

    def kills(self) -> int:
        return self.killed


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("shortcut")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


def status_of(number: int = 0, code: int = 0) -> int:
    """What waitpid gives."""
    return number or code << 8


@pytest.mark.parametrize(
    ("status", "killed", "expected"),
    [
        (
            status_of(signal.SIGKILL),
            1,
            "SIGKILL, the kernel killed it for want of memory; now 12 MB of 700 MB are left",
        ),
        (status_of(signal.SIGKILL), 0, "SIGKILL, killed, perhaps for want of memory; now 12 MB of 700 MB are left"),
        (status_of(signal.SIGSEGV), 0, "SIGSEGV, a fault in native code"),
        (status_of(signal.SIGTERM), 0, "SIGTERM"),
        (status_of(40), 0, "signal 40"),
        (status_of(code=3), 0, "it exited with status 3"),
    ],
)
def test_the_log_says_how_a_worker_ended(
    log: pytest.LogCaptureFixture, status: int, killed: int, expected: str
) -> None:
    room = Room()
    deaths = Deaths(2, room, megabytes)
    room.killed = killed
    assert deaths.ended(123, status, 7.4)
    assert log.messages == [f"worker 123 ended after 7 s: {expected}"]


def test_deaths_in_a_row_end_the_replacing(log: pytest.LogCaptureFixture) -> None:
    deaths = Deaths(2, Room(), megabytes)
    assert [deaths.ended(1, signal.SIGKILL, 5) for _ in range(6)] == [True] * 5 + [False]
    assert "6 workers in a row ended soon after their start: no more are started" in log.messages[-1]
    assert "SHORTCUT_WORKERS" in log.messages[-1]


def test_a_worker_that_has_served_for_long_begins_a_new_row() -> None:
    deaths = Deaths(1, Room(), megabytes)
    assert all(deaths.ended(1, signal.SIGKILL, age) for age in (5, 5, 3600, 5, 3600, 5))
    assert not deaths.ended(1, signal.SIGKILL, 5)


def test_statuses_are_those_of_the_system() -> None:
    child = os.fork()
    if not child:
        os._exit(3)
    assert os.waitpid(child, 0)[1] == status_of(code=3)
