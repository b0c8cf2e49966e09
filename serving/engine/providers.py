"""A model's graph -> a function that runs it on an execution provider of ONNX Runtime, or why that cannot be here.

Knows what each provider needs, in which precision and batch sizes it may compute; not which one is best, nor whether it
is right. The CUDA and OpenVINO parts follow ONNX Runtime's documentation of each provider.
"""

import os

# Before ONNX Runtime is imported: its builds from 1.31 on report usage to Microsoft, from Linux too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import ctypes
import functools
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

PROVIDERS = {"cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider", "cpu": "CPUExecutionProvider"}
ort.set_default_logger_severity(3)  # a provider that cannot load is reported once, by us


class ProviderError(RuntimeError):
    """The provider is not to be had on this machine, or does not reproduce the golden outputs."""


@dataclass(frozen=True)
class Backend:
    """One way to compute: an execution provider, the precision of its matrix products, and the batch sizes it is
    prepared for (others are filled up to the next one); none where every size is as good."""

    provider: str  # "cuda", "openvino" or "cpu"
    precision: str = "float32"  # or "tf32", "bf16"
    buckets: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.provider if self.precision == "float32" else f"{self.provider} {self.precision}"

    @property
    def exact(self) -> "Backend":
        """The backend in float32 that goes with it."""
        return Backend("cuda", "float32", self.buckets) if self.provider == "cuda" else Backend("cpu")

    @property
    def tolerance(self) -> float:
        """How far a probability may be from Keras' float32."""
        return 1e-4 if self.precision == "float32" else 0.05


_BUCKETS = (1, 2, 4, 8, 16, 32)  # CUDA looks for its convolution algorithms anew at each shape

# In order of preference where nothing tells them apart.
BACKENDS = (
    Backend("cuda", "tf32", _BUCKETS),
    Backend("cuda", "float32", _BUCKETS),
    Backend("openvino", "bf16"),
    Backend("openvino"),
    Backend("cpu"),
)

Run = Callable[[np.ndarray], np.ndarray]


def open_run(onnx: bytes, backend: Backend, threads: int) -> Run:
    """A function that maps (N, H, W, C) uint8 to (N, K) float32 on `backend`, with `threads` threads. It may be called
    from several threads. Raises ProviderError."""
    return as_run(open_session(onnx, backend, threads, ort.SessionOptions()), backend)


def open_session(onnx: bytes, backend: Backend, threads: int, options: ort.SessionOptions) -> ort.InferenceSession:
    """`options` are completed as `backend` needs them. Raises ProviderError."""
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # HTTP shares the cores
    try:
        if backend.provider == "cuda":
            return _cuda_session(onnx, options, backend.precision)
        if backend.provider == "openvino":
            _add_openvino(options, backend.precision, threads)
            return ort.InferenceSession(onnx, options)
        return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except ProviderError:
        raise
    except Exception as err:  # ONNX Runtime raises a class per status code, and RuntimeError for missing libraries
        raise ProviderError(one_line(err)) from err


def as_run(session: ort.InferenceSession, backend: Backend) -> Run:
    def run(images: np.ndarray) -> np.ndarray:
        return session.run(_OUTPUTS, {"image": images})[0]

    return run if not backend.buckets else in_buckets(run, backend.buckets)


_OUTPUTS = ("probabilities",)


def in_buckets(run: Run, buckets: tuple[int, ...]) -> Run:
    """`run` for any batch size where it shall see only `buckets`, ascending: smaller batches are filled up with zeros,
    larger ones cut."""
    most = buckets[-1]

    def run_filled(images: np.ndarray) -> np.ndarray:
        count = len(images)
        if count > most:
            return np.concatenate([run_filled(images[i : i + most]) for i in range(0, count, most)])
        bucket = next(bucket for bucket in buckets if bucket >= count)
        filled = np.zeros((bucket, *images.shape[1:]), images.dtype)
        filled[:count] = images
        return run(filled)[:count]

    return run_filled


def one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:300]


def _cuda_session(onnx: bytes, options: ort.SessionOptions, precision: str) -> ort.InferenceSession:
    """Not run where there is no GPU. Source: ONNX Runtime's "CUDA Execution Provider" page."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ProviderError("this onnxruntime was built without CUDA (install requirements/serving-gpu.txt)")
    if not cuda_may_work():
        raise ProviderError("no NVIDIA GPU was found")
    ort.preload_dlls()
    # Without this entry a missing library falls back to the CPU while the provider still counts as available.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1" if precision == "tf32" else "0"}
    try:
        # Its wrapper's own fallback would try the CPU provider and report what came of that.
        return ort.InferenceSession(onnx, options, providers=[("CUDAExecutionProvider", settings)], enable_fallback=0)
    except Exception as err:
        raise ProviderError(_missing_library() or one_line(err)) from err


def cuda_may_work() -> bool:
    """Whether there is a GPU, and an ONNX Runtime for it."""
    return "CUDAExecutionProvider" in ort.get_available_providers() and any(
        any(Path("/dev").glob(pattern)) for pattern in _GPUS
    )


_GPUS = ("nvidia[0-9]*", "dxg")  # the latter under WSL 2


def _missing_library() -> str:
    """What the CUDA provider is linked with and cannot be loaded; ONNX Runtime only says that nodes were left over."""
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as err:
        if "cannot open shared object" in str(err):
            return str(err)
    return ""


@functools.cache
def _register_once(name: str, library: str) -> None:
    ort.register_execution_provider_library(name, library)


def _add_openvino(options: ort.SessionOptions, precision: str, threads: int) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise ProviderError(f"OpenVINO is used on x86-64 only, this is {platform.machine()}")
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as err:
        raise ProviderError("onnxruntime-ep-openvino is not installed (requirements/serving.txt has it)") from err
    name = PROVIDERS["openvino"]
    _register_once(name, plugin.get_library_path())
    devices = [
        device
        for device in ort.get_ep_devices()
        if device.ep_name == name and device.device.type == ort.OrtHardwareDeviceType.CPU
    ]
    if not devices:
        raise ProviderError("OpenVINO offers no CPU device here (the plugin accepts Intel CPUs only)")
    if precision == "bf16" and "BF16" not in devices[0].ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split():
        raise ProviderError("this CPU has no bf16 instructions")
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",  # pinned, the threads of every worker would sit on the same first cores
    }
    options.add_provider_for_devices(devices[:1], {"load_config": json.dumps({"CPU": config})})


@functools.cache  # asked for every model
def machine() -> str:
    """What decides how fast each backend is here: the runtime, the processor (a virtual one is named by what it can do,
    not by its model) and the GPUs."""
    parts = [ort.__version__, platform.machine()]
    try:
        from importlib.metadata import version

        parts.append(version("onnxruntime-ep-openvino"))
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
