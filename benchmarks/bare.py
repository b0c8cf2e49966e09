"""What the bare runtimes do with an artifact when nothing is around them: no HTTP, no decoding, no queue.

`.venv/bin/python -m benchmarks.bare ARTIFACT`: one process a core with one thread each, as the service runs its
models, each computing the same batch for some seconds; on ONNX Runtime's CPU provider and on OpenVINO. Knows neither
servers nor pictures. Runs where the service runs: .venv-bench lacks OpenVINO.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
OPENVINO = "openvino"
Run = Callable[[np.ndarray], object]


class Unavailable(RuntimeError):
    """A runtime of this kind is not to be had on this machine."""


@dataclass(frozen=True)
class Row:
    """A kind of run. `fixed` sets the batch size when the graph is compiled."""

    name: str
    provider: str
    fixed: bool = False


def precision() -> str:
    """Of OpenVINO's matrix products: bf16 where the CPU has instructions for it, else as the model was trained."""
    info = Path("/proc/cpuinfo")
    return "bf16" if info.exists() and "_bf16" in info.read_text() else "float32"


ROWS = (
    Row("cpu", "CPUExecutionProvider"),
    Row(f"openvino {precision()}", OPENVINO),
    Row(f"openvino {precision()}, fixed batch", OPENVINO, fixed=True),
)


def open_run(onnx: Path, row: Row, batch: int, threads: int) -> Run:
    """A function of the batch (N, H, W, C) uint8. Raises Unavailable."""
    if row.provider == OPENVINO:
        return _openvino_run(onnx, row, batch, threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx, options, providers=[row.provider])
    return lambda images: session.run(["probabilities"], {"image": images})


def _openvino_run(onnx: Path, row: Row, batch: int, threads: int) -> Run:
    try:
        import openvino
    except ImportError as err:
        raise Unavailable(f"openvino is not installed in {sys.prefix}") from err
    core = openvino.Core()
    graph = core.read_model(onnx)
    if row.fixed:
        _, *shape = graph.input(0).partial_shape
        graph.reshape([batch, *shape])
    settings = {
        "INFERENCE_PRECISION_HINT": precision().replace("float", "f"),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or every process would be on the same core
    }
    request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> object:
        request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    return run


def input_shape(onnx: Path) -> list[int]:
    """[H, W, C]."""
    session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    shape: list[int] = session.get_inputs()[0].shape[1:]
    return shape


def _worker(queue: Any, start: Any, onnx: Path, row: Row, batch: int, seconds: float, threads: int) -> None:
    """Puts images a second, or why there are none."""
    try:
        run = open_run(onnx, row, batch, threads)
        images = np.random.default_rng(0).integers(0, 256, [batch, *input_shape(onnx)], np.uint8)
        for _ in range(3):
            run(images)
    except Exception as err:  # the other processes wait at the barrier: whatever it was must be told
        start.abort()
        queue.put(f"{err}" if isinstance(err, Unavailable) else f"{type(err).__name__}: {err}")
        return
    try:
        start.wait()
    except Exception:  # another process could not: it has said why
        return
    began, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        run(images)
        count += batch
    queue.put(count / taken)


def images_per_second(
    onnx: Path, row: Row, batch: int, seconds: float, processes: int = CORES, threads: int = 1
) -> float:
    """Of all processes together. Raises Unavailable."""
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(processes)
    arguments = (queue, start, onnx, row, batch, seconds, threads)
    workers = [context.Process(target=_worker, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    total = 0.0
    for _ in workers:
        got = queue.get(timeout=seconds + 60)
        if isinstance(got, str):
            raise Unavailable(got)
        total += got
    for worker in workers:
        worker.join()
    return total


def measure(
    artifact: Path, batches: Sequence[int], seconds: float, processes: int = CORES, threads: int = 1
) -> dict[str, Any]:
    """{"rates": {row: {batch: images/s}}, "left_out": {row: why}}."""
    rates: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for row in ROWS:
        try:
            rates[row.name] = {
                str(batch): round(
                    images_per_second(artifact / "model.onnx", row, batch, seconds, processes, threads), 1
                )
                for batch in batches
            }
        except Unavailable as err:
            left_out[row.name] = str(err)
    return {"rates": rates, "left_out": left_out}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("artifact", type=Path, help="models/<name>/<version>")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    args = parser.parse_args(argv)
    if not (args.artifact / "model.onnx").is_file():
        print(f"error: {args.artifact / 'model.onnx'}: no such file", file=sys.stderr)
        return 1
    print(json.dumps(measure(args.artifact, args.batch, args.seconds, args.processes, args.threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
