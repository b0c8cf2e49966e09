"""mosec with a decoding and an inference stage, the second with dynamic batching: `python -m … --port PORT`.

Its Rust front hands the body's bytes to the first stage. Stages as in mosec's ResNet-50 example.
"""

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.classifier import PROCESSES, Classifier

MAX_BATCH = 32
MAX_WAIT = 1  # milliseconds, the least it takes; its default of 10 only adds latency here


class Decode(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> np.ndarray:
        return self.classifier.decode(data)


class Infer(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(threads=PROCESSES)

    def forward(self, data: list[np.ndarray]) -> list[dict[str, str | float]]:
        return [self.classifier.answer(row) for row in self.classifier.run(np.stack(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=PROCESSES, route="/classify")
    server.append_worker(Infer, num=1, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT, route="/classify")
    server.run()
