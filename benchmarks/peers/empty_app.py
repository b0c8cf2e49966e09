"""A BentoML service without a model, only started to see how long that alone takes."""

import bentoml

from benchmarks.peers.classifier import PROCESSES


@bentoml.service(workers=PROCESSES)
class Empty:
    @bentoml.api
    def classify(self) -> str:
        return ""
