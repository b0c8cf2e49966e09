"""The backend that computes one version now: replaced when it fails, or when a faster one is found; or out of memory.

Tells the version's queue by what to compute. Whether the process must end, where nothing can compute any more, is not
decided here.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from serving.engine.batching import Batcher
from serving.engine.providers import Backend, one_line
from serving.engine.selection import Model, absent
from serving.errors import Unavailable
from serving.operations.metrics import Meter
from serving.repository.residency import Residency

log = logging.getLogger("shortcut")

Load = Callable[[Backend | None], Model]  # finds another model; the backend is the one that has failed
Faster = Callable[[Model], Model]  # the same on a faster backend, if there is one
RETRY_SECONDS = 2.0  # after which a model that could not be loaded is tried again
Lost = Callable[[bool], None]  # nothing computes any more; True where a batch hangs on a thread


def stay(hangs: bool) -> None:
    """The process goes on, and answers that this model is unavailable."""


class Runner:
    """Computes by `model`, and moves to another. Its methods may be called on any thread, but `failed`, `stuck` and
    `wanted`.

    `residency` says when the model leaves memory; without one it stays. `resident` is whether it is there.
    """

    def __init__(
        self,
        model: Model,
        meter: Meter,
        load: Load,
        faster: Faster,
        lost: Lost = stay,
        residency: Residency | None = None,
        resident: bool = True,
    ):
        self.model = model
        self.computes = True
        self.resident = resident
        self.batcher: Batcher | None = None  # is told by what to compute
        self._meter = meter
        self._load, self._faster, self._lost = load, faster, lost
        self._residency = residency
        self._loaded = time.perf_counter()  # when it came into memory
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
            model = self._load(failed.backend)
        except Exception as err:  # StartError, or what nobody thought of: either way there is nothing to go on with
            log.critical("%s cannot be computed any more, this worker ends: %s", failed.name, one_line(err))
            self._lost(False)
            return
        # Nor is a faster one looked for: that would be the one that has failed.
        reason = f"{failed.backend} failed ({why}); {model.reason}"
        self._move(replace(model, measuring=False, traffic=None, reason=reason))
        self._count(model)
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
        model = self._faster(before)
        if self._move(model, before) and model.backend != before.backend:
            self._count(model)
            log.info("%s: %s from now on, %s images/s", model.name, model.backend, f"{1 / model.image_seconds:,.0f}")

    def _count(self, model: Model) -> None:
        """It computes on another backend, which may take more memory."""
        if self._residency is not None and model.bytes:
            self._residency.add(self, model.bytes)

    # In memory or not: what `residency` asks

    def wanted(self) -> None:
        """On the event loop: an image waits for it."""
        if self._residency is not None:
            self._residency.want(self, self.model.artifact.bytes)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def used(self) -> float:
        return max(self._loaded, 0.0 if self.batcher is None else self.batcher.used)

    @property
    def may_go(self) -> bool:
        return self.computes and (self.batcher is None or self.batcher.idle or self.batcher.used > self._loaded)

    def fetch(self) -> bool:
        began = time.perf_counter()
        try:
            model = self._load(None)
        except Exception as err:  # StartError, or what nobody thought of
            reason = f"{self.model.name} cannot be loaded: {one_line(err)}"
            log.error("%s", reason)
            with self._moving:
                self.model = replace(self.model, reason=reason)
                if self.batcher is not None:
                    # Not what the reason is, which names files: GET /models says it.
                    self.batcher.refuse(f"{self.model.name} cannot be loaded at the moment", RETRY_SECONDS)
            return False
        self._loaded = time.perf_counter()
        self.resident = True
        self._meter.resident(True, self._loaded - began)
        self._move(model)  # and who waits goes on
        return True

    def let_go(self) -> bool:
        with self._moving:
            if not self.computes or self.batcher is None:
                return False
            self.resident = False
            self.model = absent(self.model)
            self.batcher.sleep()
        self._meter.resident(False)
        return True
