"""A model's graph -> functions that run it on the processor by OpenVINO, or the reason why that cannot be.

By its own API: the plugin for ONNX Runtime takes Intel processors only and no fixed batch size. Knows neither what is
right nor what is fast. Source: OpenVINO's page "CPU Device".
"""

import functools
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.engine.buckets import Outputs, Run


class NotHere(RuntimeError):
    """This machine, or this environment, has not what is needed."""


@functools.cache  # the plugin and its list of devices, once in a process
def _core() -> Any:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotHere(f"OpenVINO is used on x86-64 only, this is {platform.machine()}")
    try:
        import openvino
    except ImportError as err:
        raise NotHere("openvino is not installed (requirements/serving.txt has it)") from err
    return openvino.Core()


def open_runs(onnx: bytes, precision: str, threads: int, sizes: Sequence[int]) -> dict[int, Run]:
    """A run for each batch size, computing in "float32" or "bf16"; the run for size 0 takes any. None of them may be
    called by two threads at once. Raises NotHere, or whatever OpenVINO raises."""
    core = _core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotHere("this CPU has no bf16 instructions")
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,  # one batch runs at a time, on the thread that asks for it
        "ENABLE_CPU_PINNING": False,  # pinned, the threads of every worker would sit on the same first cores
    }
    graph = core.read_model(onnx)
    _, *shape = graph.input(0).partial_shape
    runs = {}
    for size in sizes:
        fitted = graph.clone()
        fitted.reshape([size or -1, *shape])
        runs[size] = _as_run(core.compile_model(fitted, "CPU", settings))
    return runs


def _as_run(compiled: Any) -> Run:
    from openvino import Tensor

    request = compiled.create_infer_request()
    names = [name for output in compiled.outputs for name in output.names]
    wanted = ["probabilities", *(["unfamiliarity"] if "unfamiliarity" in names else [])]

    def run(images: np.ndarray) -> Outputs:
        request.set_input_tensor(Tensor(np.ascontiguousarray(images), shared_memory=True))
        request.infer()
        return Outputs(*(request.get_tensor(name).data.copy() for name in wanted))  # the next run writes there

    return run
