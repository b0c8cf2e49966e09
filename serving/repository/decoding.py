"""An upload -> the array a model takes: at once where that is quick, on a decoder's thread where it is not.

No more large pictures wait than can be decoded in time. Knows the artifact's input, and neither queues of models nor
HTTP.
"""

import functools
import time
from concurrent.futures import Future
from typing import NamedTuple

from serving.artifacts import Artifact
from serving.engine.admission import ServiceTime
from serving.engine.fair_pool import FairPool
from serving.errors import DeadlineExceeded, Overloaded
from serving.images.picture import Decoded, Picture, TakesLong
from serving.operations.metrics import Meter

INLINE_PIXELS = 128 * 128  # up to this, decoding costs less than waking a thread
INLINE_BYTES = 128 * 1024  # of a file; reading the header of a larger one may already take long
# Two, so that one enormous picture does not hold up all others; more would cost memory, up to 0.8 GB each, and there
# is a worker for every core.
_DECODERS = FairPool(2, "decode")
DECODE_SECONDS = 0.05  # of a large picture, before any was measured
DECODE_SHARE = 0.4  # of the deadline, that the wait for a decoder may last; the queue for the model has another half


def to_array(picture: Picture, artifact: Artifact) -> Decoded:
    """The picture as the model of `artifact` takes it."""
    return picture.to_array(
        artifact.input_shape, artifact.input_convention, artifact.resample, artifact.resize_to, artifact.pad_fill
    )


class OnThread(NamedTuple):
    """A picture that a decoder's thread has decoded, and when it began."""

    decoded: Decoded
    began: float


class Decoder:
    """Decodes for one version of a model. Belongs to the event loop."""

    def __init__(self, artifact: Artifact, meter: Meter, max_pixels: int, queue: int, deadline_ms: int):
        self._artifact = artifact
        self._meter = meter
        self._max_pixels = max_pixels
        self._deadline_ms = deadline_ms
        self.service_time = ServiceTime(queue, DECODE_SHARE * deadline_ms / 1000, DECODE_SECONDS)

    def now(self, data: bytes) -> Decoded | Picture | None:
        """A small upload decoded; a picture whose header has been read, where decoding it takes longer than waking a
        thread; None for what takes long even to look at."""
        if len(data) > INLINE_BYTES:
            return None
        try:
            picture = Picture.open(data, self._max_pixels, quick=True)
            if picture.pixels > INLINE_PIXELS and not picture.is_decoded:
                picture.take_time()
                return picture
            return to_array(picture, self._artifact)
        except TakesLong:
            return None

    def later(self, upload: bytes | Picture, asked: float) -> "Future[OnThread]":
        """Wait for a decoder. Raises Overloaded where too many do."""
        name, pace = self._artifact.name, self.service_time
        waiting = _DECODERS.waiting(name)
        if waiting >= pace.room:
            self._meter.rejected()
            raise Overloaded(f"{waiting} large pictures wait to be decoded; the limit is {pace.room}{pace.why}")
        return _DECODERS.submit(name, functools.partial(self._decode, upload, asked))

    def _decode(self, upload: bytes | Picture, asked: float) -> OnThread:
        """On a decoder's thread."""
        began = time.perf_counter()
        if began - asked > self._deadline_ms / 1000:
            raise DeadlineExceeded(f"not decoded within {self._deadline_ms} ms")
        picture = upload if isinstance(upload, Picture) else Picture.open(upload, self._max_pixels)
        return OnThread(to_array(picture, self._artifact), began)

    def finished(self, future: "Future[OnThread]", asked: float) -> Decoded | Exception:
        """What came of `later`, on the event loop, and how long it took."""
        ended = time.perf_counter()
        more_wait = _DECODERS.waiting(self._artifact.name) > 0
        err = future.exception()
        if err is not None:
            if isinstance(err, DeadlineExceeded):
                self._meter.expired()
            self.service_time.ended(0, 0.0, ended, more_wait)  # how soon it failed says nothing
            return err if isinstance(err, Exception) else RuntimeError(repr(err))
        decoded, began = future.result()
        self.service_time.ended(1, began, ended, more_wait)
        self._meter.decoded(ended - asked)
        return decoded
