"""What ONNX Runtime does with an artifact when nothing is around it: no HTTP, no decoding, no queue.

`python -m benchmarks.bare ARTIFACT`: one process a core with one thread each, as the service runs its sessions, each
calling `run` on the same batch for some seconds. Knows neither servers nor pictures; the CPU provider only.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(onnx: Path, batch: int, seconds: float, threads: int, start: object) -> tuple[int, float]:
    """Images and the seconds they took, in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    shape = [batch, *session.get_inputs()[0].shape[1:]]
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(3):
        session.run(["probabilities"], {"image": images})
    start.wait()  # type: ignore[attr-defined]  # multiprocessing's Barrier has no public type
    began, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        session.run(["probabilities"], {"image": images})
        count += batch
    return count, taken


def _worker(queue: object, *arguments: object) -> None:
    queue.put(measure(*arguments))  # type: ignore[attr-defined, arg-type]


def images_per_second(onnx: Path, batch: int, seconds: float, processes: int = CORES, threads: int = 1) -> float:
    """Of all processes together."""
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(processes)
    workers = [
        context.Process(target=_worker, args=(queue, onnx, batch, seconds, threads, start), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [count / taken for count, taken in (queue.get(timeout=seconds + 60) for _ in workers)]
    for worker in workers:
        worker.join()
    return sum(rates)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("artifact", type=Path, help="models/<name>/<version>")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    args = parser.parse_args(argv)
    onnx = args.artifact / "model.onnx"
    if not onnx.is_file():
        print(f"error: {onnx}: no such file", file=sys.stderr)
        return 1
    rates = {b: images_per_second(onnx, b, args.seconds, args.processes, args.threads) for b in args.batch}
    print(json.dumps({str(batch): round(rate, 1) for batch, rate in rates.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
