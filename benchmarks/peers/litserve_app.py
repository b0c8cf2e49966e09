"""LitServe with batching on: `python -m benchmarks.peers.litserve_app PORT`.

The settings are those that its docstrings recommend: on a CPU as many workers as cores, `fast_queue` for hundreds of
requests a second, as many HTTP servers as workers. The body arrives as bytes, without multipart.
"""

import sys
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body

from benchmarks.peers.classifier import PROCESSES, Classifier

MAX_BATCH = 32
BATCH_TIMEOUT = 0.0  # its default: a batch is what already waits; 2 ms and 10 ms were not faster


class ClassifyAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> np.ndarray:
        return self.classifier.decode(request)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.classifier.run(images)

    def encode_response(self, output: np.ndarray) -> dict[str, str | float]:
        return self.classifier.answer(output)


if __name__ == "__main__":
    api = ClassifyAPI(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=PROCESSES, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
