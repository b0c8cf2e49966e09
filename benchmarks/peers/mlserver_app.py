"""MLServer with a custom runtime: `python -m benchmarks.peers.mlserver_app PORT`, in an environment of its own.

Needs requirements/bench-mlserver.txt: it is not to be had beside the FastAPI of the others. A picture comes as its
Open Inference Protocol has it over REST: base64 in JSON, content type `base64`. Its guides want a worker a core
(`parallel_workers`) and adaptive batching switched on with values found by trying.
"""

import asyncio
import socket
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peers.classifier import PROCESSES, Classifier

MAX_BATCH = 32
MAX_WAIT = 0.001  # seconds


class ClassifierRuntime(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pictures = [self.classifier.decode(data) for data in self.decode(payload.inputs[0], Base64Codec)]
        answers = [self.classifier.answer(row) for row in self.classifier.run(np.stack(pictures))]
        labels = StringCodec.encode_output("label", [str(answer["label"]) for answer in answers], use_bytes=False)
        sure = NumpyCodec.encode_output("probability", np.array([[answer["probability"]] for answer in answers]))
        return InferenceResponse(model_name=self.name, outputs=[labels, sure])


async def serve(port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        grpc_port = free.getsockname()[1]
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        parallel_workers=PROCESSES,
        metrics_endpoint=None,
        gzip_enabled=False,
        debug=False,  # no access log
    )
    model = ModelSettings(
        name="classifier",
        implementation="benchmarks.peers.mlserver_app.ClassifierRuntime",
        max_batch_size=MAX_BATCH,
        max_batch_time=MAX_WAIT,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    install_uvloop_event_loop()  # as its command line does
    asyncio.run(serve(int(sys.argv[1])))
