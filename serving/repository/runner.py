"""The backend that computes one version now: replaced when it fails, or when a faster one is found.

Tells the version's queue by what to compute. Whether the process must end, where nothing can compute any more, is not
decided here.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from serving.engine.batching import Batcher
from serving.engine.providers import Backend, one_line
from serving.engine.selection import Model
from serving.errors import Unavailable
from serving.operations.metrics import Meter

log = logging.getLogger("shortcut")

Load = Callable[[Backend | None], Model]  # finds another model; the backend is the one that has failed
Faster = Callable[[Model], Model]  # the same on a faster backend, if there is one
Lost = Callable[[bool], None]  # nothing computes any more; True where a batch hangs on a thread


def stay(hangs: bool) -> None:
    """The process goes on, and answers that this model is unavailable."""


class Runner:
    """Computes by `model`, and moves to another. Its methods may be called on any thread, but `failed` and `stuck`."""

    def __init__(self, model: Model, meter: Meter, load: Load, faster: Faster, lost: Lost = stay):
        self.model = model
        self.computes = True
        self.batcher: Batcher | None = None  # is told by what to compute
        self._meter = meter
        self._load, self._faster, self._lost = load, faster, lost
        self._moving = threading.Lock()  # held to replace `model`

    def failed(self, err: Exception) -> Exception:
        """A batch failed: look for another backend, and answer until there is one that nothing computes."""
        model, why = self.model, one_line(err)
        self._meter.failed()
        log.error("%s failed on %s: %s", model.name, model.backend, why)
        unavailable = self._stop()
        threading.Thread(target=self._recover, args=(model, why), daemon=True).start()
        return unavailable

    def stuck(self, seconds: float) -> Exception:
        """A batch has run for so long that it will not end, and a thread cannot be stopped."""
        log.critical("%s has been computing for %.0f s, this worker ends", self.model, seconds)
        self._meter.failed()
        unavailable = self._stop()
        self._lost(True)
        return unavailable

    def _stop(self) -> Unavailable:
        self.computes = False
        reason = f"{self.model.name} cannot be computed at the moment"
        if self.batcher is not None:
            self.batcher.unavailable = reason
        return Unavailable(reason)

    def _recover(self, failed: Model, why: str) -> None:
        try:
            found = self._load(failed.backend)
        except Exception as err:  # StartError, or what nobody thought of: either way there is nothing to go on with
            log.critical("%s cannot be computed any more, this worker ends: %s", failed.name, one_line(err))
            self._lost(False)
            return
        # Nor is a faster one looked for: that would be the one that has failed.
        self._move(replace(found, measuring=False, reason=f"{failed.backend} failed ({why}); {found.reason}"))
        log.warning("%s", self.model)

    def _move(self, model: Model, before: Model | None = None) -> bool:
        """Compute by `model` from the next batch on; False where that is no longer `before`, by which it did."""
        with self._moving:
            if before is not None and (self.model is not before or not self.computes):
                return False
            self.model = model
            self._meter.moved(model.provider, model.backend.precision, model.measuring)
            if self.batcher is not None:
                self.batcher.compute_by(model.rows, model.image_seconds)
                self.batcher.unavailable = ""
            self.computes = True
            return True

    def take_faster(self) -> None:
        """Find out which backend is the fastest and compute by that. It may take seconds: for a thread of its own."""
        before = self.model
        found = self._faster(before)
        if self._move(found, before) and found.backend != before.backend:
            log.info("%s: %s from now on, %s images/s", found.name, found.backend, f"{1 / found.image_seconds:,.0f}")
