"""A model's graph -> ONNX Runtime's CUDA provider; batches of one size are repeated as CUDA graphs where asked for.

Follows ONNX Runtime's pages "CUDA Execution Provider" and "Performance: CUDA graphs". Knows nothing of what else could
compute.
"""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

from serving.engine.buckets import Outputs, Run

PROVIDER = "CUDAExecutionProvider"
_GPUS = ("nvidia[0-9]*", "dxg")  # the latter under WSL 2
# What one of NVIDIA's libraries says, without the C++ types before it and the name of the host after it.
_FAILURE = re.compile(r"CU[A-Z]+ failure \d+: .*?(?= ; GPU=|$)")


def may_work() -> bool:
    """Whether there is a GPU, and an ONNX Runtime for it."""
    return built_in() and any(any(Path("/dev").glob(pattern)) for pattern in _GPUS)


def built_in() -> bool:
    return PROVIDER in ort.get_available_providers()


def session(onnx: bytes, options: ort.SessionOptions, tf32: bool, graphs: bool) -> ort.InferenceSession:
    """Raises what ONNX Runtime raises where a library is missing or a node cannot be computed."""
    ort.preload_dlls()
    # Without this entry a missing library falls back to the CPU while the provider still counts as available.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": str(int(tf32)),
        "enable_cuda_graph": str(int(graphs)),
    }
    # Its wrapper's own fallback would try the CPU provider and report what came of that.
    with GPU.shared():
        return ort.InferenceSession(onnx, options, providers=[(PROVIDER, settings)], enable_fallback=0)


def what_failed(err: Exception) -> str:
    """The reason that an error of ONNX Runtime holds or, where it only says that nodes were left over, hides; "" where
    there is none."""
    if match := _FAILURE.search(" ".join(str(err).split())):
        return match[0]
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as missing:
        if "cannot open shared object" in str(missing):
            return str(missing)
    return ""


class Gate:
    """Many threads compute on the GPU, or one records what they will repeat.

    While CUDA records a graph, memory that any other thread of the process takes on the GPU spoils the recording, and
    that thread fails too (`cudaStreamCaptureModeGlobal`; seen on an H200 when two models were loaded at once).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = 0
        self._recording = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._recording)
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._recording)
            self._recording = True  # whoever comes now waits
            self._changed.wait_for(lambda: not self._computing)
        try:
            yield
        finally:
            with self._changed:
                self._recording = False
                self._changed.notify_all()


GPU = Gate()


def recorded(session: ort.InferenceSession, outputs: list[str], sizes: tuple[int, ...]) -> dict[int, Run]:
    """A run for each batch size, recorded now, beside which nothing else of this process computes."""
    [image] = session.get_inputs()
    with GPU.alone():  # binding takes memory on the GPU too, which another's recording does not bear
        runs = {size: bound_run(session, outputs, size, "cuda") for size in sizes}
        for size, run in runs.items():
            run(np.zeros((size, *image.shape[1:]), np.uint8))
    return {size: beside_others(run) for size, run in runs.items()}


def beside_others(run: Run) -> Run:
    """`run`, but while a graph is recorded."""

    def waiting(images: np.ndarray) -> Outputs:
        with GPU.shared():
            return run(images)

    return waiting


def bound_run(session: ort.InferenceSession, outputs: list[str], size: int, device: str) -> Run:
    """A run of one batch size whose input and outputs stay where they are on the device, as CUDA graphs need it. Its
    first run on "cuda" records the graph."""
    [image] = session.get_inputs()
    shapes = {output.name: (size, *output.shape[1:]) for output in session.get_outputs()}
    given = ort.OrtValue.ortvalue_from_numpy(np.zeros((size, *image.shape[1:]), np.uint8), device, 0)
    answers = [ort.OrtValue.ortvalue_from_numpy(np.zeros(shapes[name], np.float32), device, 0) for name in outputs]
    binding = session.io_binding()
    binding.bind_ortvalue_input(image.name, given)
    for name, answer in zip(outputs, answers, strict=True):
        binding.bind_ortvalue_output(name, answer)
    options = ort.RunOptions()
    if device == "cuda":
        options.add_run_config_entry("gpu_graph_id", str(size))

    def run(images: np.ndarray) -> Outputs:
        given.update_inplace(np.ascontiguousarray(images))
        session.run_with_iobinding(binding, options)
        return Outputs(*(np.array(answer.numpy()) for answer in answers))  # the next run writes there

    return run
