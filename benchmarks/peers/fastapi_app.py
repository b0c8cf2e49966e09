"""FastAPI + ONNX Runtime: `uvicorn benchmarks.peers.fastapi_app:app --workers N`, one image a request, no batching.

Classifies inside an async path operation, which was faster than `def` with its thread pool: nothing waits here, and
ONNX Runtime has one thread a process either way.
"""

from fastapi import FastAPI, Request

from benchmarks.peers.classifier import Classifier

app = FastAPI()
classifier = Classifier()


@app.post("/classify")
async def classify(request: Request) -> dict[str, str | float]:
    return classifier.classify(await request.body())
