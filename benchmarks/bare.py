"""What ONNX Runtime does with an artifact when nothing is around it: no HTTP, no decoding, no queue.

`.venv/bin/python -m benchmarks.bare ARTIFACT`: one process a core with one thread each, as the service runs its
sessions, each calling `run` on the same batch for some seconds; on every provider for the CPU that our service may
choose. Knows neither servers nor pictures. Runs where the service runs: .venv-bench lacks the OpenVINO plugin.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
OPENVINO = "OpenVINOExecutionProvider"


class Unavailable(RuntimeError):
    """A session of this kind is not to be had on this machine."""


@dataclass(frozen=True)
class Row:
    """A kind of session. `fixed` sets the batch dimension when the session is made, which a service cannot."""

    name: str
    provider: str
    fixed: bool = False


def precision() -> str:
    """Of OpenVINO's matrix products: bf16 where the CPU has tiles for it, else what the model was trained in."""
    info = Path("/proc/cpuinfo")
    return "bf16" if info.exists() and " amx_bf16" in info.read_text() else "float32"


ROWS = (
    Row("cpu", "CPUExecutionProvider"),
    Row(f"openvino {precision()}", OPENVINO),
    Row(f"openvino {precision()}, fixed batch", OPENVINO, fixed=True),
)


def session(onnx: Path, row: Row, batch: int, threads: int) -> ort.InferenceSession:
    """Raises Unavailable."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if row.fixed:
        plain = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        options.add_free_dimension_override_by_name(plain.get_inputs()[0].shape[0], batch)
    if row.provider != OPENVINO:
        return ort.InferenceSession(onnx, options, providers=[row.provider])
    # Pinning would put every process on the same core.
    cpu = {
        "INFERENCE_PRECISION_HINT": precision().replace("float", "f"),
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }
    options.add_provider_for_devices([_openvino_device()], {"load_config": json.dumps({"CPU": cpu})})
    return ort.InferenceSession(onnx, options)


def _openvino_device() -> ort.OrtEpDevice:
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as err:
        raise Unavailable(f"onnxruntime-ep-openvino is not installed in {sys.prefix}") from err
    try:
        ort.register_execution_provider_library(OPENVINO, plugin.get_library_path())
    except Exception as err:  # ONNX Runtime has a class of its own for each status code
        raise Unavailable(" ".join(str(err).split())[:200]) from err
    for device in ort.get_ep_devices():
        if device.ep_name == OPENVINO and device.device.type == ort.OrtHardwareDeviceType.CPU:
            return device
    raise Unavailable("OpenVINO offers no CPU device here (the plugin accepts Intel CPUs only)")


def _worker(queue: Any, start: Any, onnx: Path, row: Row, batch: int, seconds: float, threads: int) -> None:
    """Puts images a second, or why there are none."""
    try:
        ready = session(onnx, row, batch, threads)
        images = np.random.default_rng(0).integers(0, 256, [batch, *ready.get_inputs()[0].shape[1:]], np.uint8)
        for _ in range(3):
            ready.run(["probabilities"], {"image": images})
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
        ready.run(["probabilities"], {"image": images})
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
