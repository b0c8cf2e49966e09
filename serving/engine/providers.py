"""A model's graph -> a function that runs it on a backend, or the reason why that cannot be here.

Knows what each provider needs, in which precision and batch sizes it may compute; not which one is best, nor whether it
is right.
"""

import os

# Before ONNX Runtime is imported: its builds from 1.31 on report usage to Microsoft, from Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import functools
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from serving.engine import cuda, openvino_cpu
from serving.engine.buckets import FORMED, SIZES, Outputs, Run, in_buckets

# Execution providers of ONNX Runtime, and OpenVINO itself.
PROVIDERS = {"cuda": cuda.PROVIDER, "openvino": "OpenVINO", "cpu": "CPUExecutionProvider"}
ort.set_default_logger_severity(3)  # a provider that cannot load is reported once, by us


class ProviderError(RuntimeError):
    """The provider is not to be had on this machine, or does not reproduce the golden outputs.

    `lasting` where that will be so at the next start on this machine too. Whatever a library raises may pass: memory
    may have been short.
    """

    def __init__(self, message: str, lasting: bool = False):
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True)
class Backend:
    """One way to compute: a provider, the precision of its matrix products, and the batch sizes that it is prepared
    for, none where it takes every size."""

    provider: str  # "cuda", "openvino" or "cpu"
    precision: str = "float32"  # or "tf32", "bf16"
    buckets: tuple[int, ...] = ()
    graphs: bool = False  # CUDA graphs: the GPU repeats a recorded run, on memory that stays where it is

    def __str__(self) -> str:
        return " ".join(
            [
                self.provider,
                *([self.precision] if self.precision != "float32" else []),
                *(["graphs"] if self.graphs else []),
                *(["in fixed sizes"] if self.buckets and self.provider == "openvino" else []),
            ]
        )

    @property
    def exact(self) -> "Backend":
        """The backend in float32 that goes with it."""
        return Backend("cuda", "float32", self.buckets) if self.provider == "cuda" else Backend("cpu")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes at which it is timed."""
        return self.buckets or FORMED

    @property
    def checked(self) -> tuple[int, ...]:
        """The batch sizes at which it may compute differently."""
        return (1, max(FORMED)) if self.provider == "cpu" else self.sizes

    @property
    def tolerance(self) -> float:
        """How far a probability may be from Keras' float32."""
        return 1e-4 if self.precision == "float32" else 0.05


# In order of preference where nothing tells them apart.
BACKENDS = (
    Backend("cuda", "tf32", FORMED, graphs=True),
    Backend("cuda", "float32", FORMED, graphs=True),
    Backend("cuda", "tf32", FORMED),  # CUDA looks for its convolution algorithms anew at each shape
    Backend("cuda", "float32", FORMED),
    Backend("openvino", "bf16", SIZES),
    Backend("openvino", "bf16"),
    Backend("openvino", "float32", SIZES),
    Backend("openvino", "float32"),
    Backend("cpu"),
)


def open_run(onnx: bytes, backend: Backend, threads: int, seconds: Mapping[int, float] | None = None) -> Run:
    """A function that maps (N, H, W, C) uint8 to (N, K) float32 on `backend`, with `threads` threads. Two threads may
    not call it at once. `seconds` is what a run of each of its batch sizes takes, if that is known. Raises
    ProviderError."""
    if backend.provider != "openvino":
        return as_run(open_session(onnx, backend, threads, ort.SessionOptions()), backend, seconds)
    try:
        runs = openvino_cpu.open_runs(onnx, backend.precision, threads, backend.buckets or (0,))
    except Exception as err:  # RuntimeError, or a class of OpenVINO's
        raise ProviderError(one_line(err), isinstance(err, openvino_cpu.NotHere)) from err
    return in_buckets(runs, seconds) if backend.buckets else runs[0]


def open_session(onnx: bytes, backend: Backend, threads: int, options: ort.SessionOptions) -> ort.InferenceSession:
    """`options` are completed as `backend` needs them. Raises ProviderError."""
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # HTTP shares the cores
    try:
        if backend.provider == "cuda":
            return _cuda_session(onnx, options, backend)
        return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except ProviderError:
        raise
    except Exception as err:  # ONNX Runtime raises a class per status code, and RuntimeError for missing libraries
        raise _refusal(err, backend) from err


def as_run(session: ort.InferenceSession, backend: Backend, seconds: Mapping[int, float] | None = None) -> Run:
    outputs = output_names(session)

    def run(images: np.ndarray) -> Outputs:
        return Outputs(*session.run(outputs, {"image": images}))

    if backend.graphs:
        try:
            return in_buckets(cuda.recorded(session, outputs, backend.buckets), seconds)
        except Exception as err:  # what cannot be recorded
            raise _refusal(err, backend) from err
    one = cuda.beside_others(run) if backend.provider == "cuda" else run
    return in_buckets(dict.fromkeys(backend.buckets, one), seconds) if backend.buckets else one


def output_names(session: ort.InferenceSession) -> list[str]:
    """Of the outputs that are served, in the order of `Outputs`."""
    names = {output.name for output in session.get_outputs()}
    return ["probabilities", *(["unfamiliarity"] if "unfamiliarity" in names else [])]


def _refusal(err: Exception, backend: Backend) -> ProviderError:
    return ProviderError((cuda.what_failed(err) if backend.provider == "cuda" else "") or one_line(err))


def one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:300]


def _cuda_session(onnx: bytes, options: ort.SessionOptions, backend: Backend) -> ort.InferenceSession:
    if not cuda.built_in():
        raise ProviderError(
            "this onnxruntime was built without CUDA (install requirements/serving-gpu.txt)", lasting=True
        )
    if not cuda.may_work():
        raise ProviderError("no NVIDIA GPU was found", lasting=True)
    return cuda.session(onnx, options, backend.precision == "tf32", backend.graphs)


@functools.cache  # asked for every model
def machine() -> str:
    """What decides how fast each backend is here: the runtime, the processor (a virtual one is named by what it can do,
    not by its model) and the GPUs."""
    parts = [ort.__version__, platform.machine()]
    try:
        from importlib.metadata import version

        parts.append(version("openvino"))
    except ImportError:  # PackageNotFoundError is one
        pass
    for file in (Path("/proc/cpuinfo"), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        kept = ("vendor_id", "model name", "cpu family", "model", "stepping", "flags", "Features", "Model", "CPU part")
        parts += dict.fromkeys(line for line in lines if line.partition(":")[0].strip() in kept)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
