"""A few threads for work that is too long for the event loop, which those who ask for it use in turn.

However much one lane (a model, say) has waiting, another's next piece of work waits for no more than one of it. Knows
functions only.
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class FairPool:
    def __init__(self, threads: int, name: str):
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._lanes: dict[str, dict[Future[Any], Callable[[], Any]]] = {}  # lanes and calls in the order of their turns

    def waiting(self, lane: str) -> int:
        """How many calls of that lane have not begun."""
        return len(self._lanes.get(lane, ()))

    def submit(self, lane: str, call: Callable[[], Any]) -> Future[Any]:
        """What `call` returns or raises, once it was its turn; cancelling the future before then saves the call."""
        future: Future[Any] = Future()
        with self._lock:
            self._lanes.setdefault(lane, {})[future] = call
        future.add_done_callback(functools.partial(self._forget, lane))
        self._executor.submit(self._next)  # at least as many as there are calls, each for the one whose turn it then is
        return future

    def _forget(self, lane: str, future: Future[Any]) -> None:
        """Let go of a call that was cancelled, and of what it holds."""
        with self._lock:
            calls = self._lanes.get(lane)
            if calls is not None and calls.pop(future, None) is not None and not calls:
                del self._lanes[lane]

    def _next(self) -> None:
        with self._lock:
            if not self._lanes:
                return
            lane = next(iter(self._lanes))
            calls = self._lanes.pop(lane)
            future = next(iter(calls))
            call = calls.pop(future)
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
