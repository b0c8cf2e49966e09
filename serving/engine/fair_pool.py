"""A few threads for work that is too long for the event loop, which those who ask for it use in turn.

However much one lane (a model, say) has waiting, another's next piece of work waits for no more than one of it. Knows
functions only.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class FairPool:
    def __init__(self, threads: int, name: str):
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}  # in the order of their turns

    def waiting(self, lane: str) -> int:
        """How many calls of that lane have not begun; those that were cancelled, and what they hold, are let go."""
        with self._lock:
            calls = self._lanes.get(lane)
            if calls and any(future.cancelled() for future, _ in calls):
                calls = deque(call for call in calls if not call[0].cancelled())
                if calls:
                    self._lanes[lane] = calls
                else:
                    del self._lanes[lane]
            return len(calls or ())

    def submit(self, lane: str, call: Callable[[], Any]) -> Future[Any]:
        """What `call` returns or raises, once it was its turn; cancelling the future before then saves the call."""
        future: Future[Any] = Future()
        with self._lock:
            self._lanes.setdefault(lane, deque()).append((future, call))
        self._executor.submit(self._next)  # at least as many as there are calls, each for the one whose turn it then is
        return future

    def _next(self) -> None:
        with self._lock:
            if not self._lanes:
                return
            lane = next(iter(self._lanes))
            calls = self._lanes.pop(lane)
            future, call = calls.popleft()
            if calls:
                self._lanes[lane] = calls  # behind the others
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as err:
            future.set_exception(err)
            # This frame is in the error's traceback: it must not keep the future, which keeps the error, nor the call.
            del future, call, calls
