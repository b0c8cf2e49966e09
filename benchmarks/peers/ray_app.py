"""Ray Serve with one replica a core and `@serve.batch`: `python -m benchmarks.peers.ray_app PORT`.

Needs requirements/bench-ray.txt. Reads the raw body from Starlette's request, as Ray's HTTP guide does.
"""

import signal
import sys
import threading

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.classifier import PROCESSES, Classifier

MAX_BATCH = 32
BATCH_WAIT = 0.002  # seconds


@serve.deployment(num_replicas=PROCESSES, max_ongoing_requests=2 * MAX_BATCH, ray_actor_options={"num_cpus": 0.5})
class RayClassifier:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT)
    async def infer(self, images: list) -> list:
        import numpy as np

        return [self.classifier.answer(row) for row in self.classifier.run(np.stack(images))]

    async def __call__(self, request: Request) -> dict[str, str | float]:
        return await self.infer(self.classifier.decode(await request.body()))


if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(include_dashboard=False, num_cpus=PROCESSES, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config={"enable_access_log": False}
    )
    serve.run(RayClassifier.bind(), route_prefix="/classify")
    stop.wait()
    serve.shutdown()
    ray.shutdown()
