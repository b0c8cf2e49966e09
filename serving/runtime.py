"""Artifacts -> warm ONNX Runtime sessions on the best execution provider that reproduces their golden outputs.

Decides which provider to use and proves that it computes what Keras did. Knows nothing of requests or queues. The
CUDA and OpenVINO parts follow ONNX Runtime's documentation of each provider.
"""

import json
import os
import platform
import time
import timeit
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from serving.artifacts import Artifact
from serving.errors import StartError

FLOAT32_TOLERANCE = 1e-4  # of a probability
PROVIDERS = {"cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider", "cpu": "CPUExecutionProvider"}

ort.set_default_logger_severity(3)  # a provider that cannot load is reported once, by us


class ProviderError(RuntimeError):
    """The provider is not to be had on this machine, or does not reproduce the golden outputs."""


@dataclass(frozen=True)
class Model:
    """A served version: `run` maps (N, H, W, C) uint8 to (N, K) float32 probabilities. Safe from several threads."""

    artifact: Artifact
    session: ort.InferenceSession
    provider: str
    reason: str
    deviation: float
    load_seconds: float
    batch_seconds: float  # one run of the golden images (32 of them), warm

    @property
    def name(self) -> str:
        return f"{self.artifact.name} version {self.artifact.version}"

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.provider} ({self.reason}), "
            f"golden outputs within {self.deviation:.1e}, loaded in {1000 * self.load_seconds:.0f} ms"
        )

    def run(self, images: np.ndarray) -> np.ndarray:
        (probabilities,) = self.session.run(("probabilities",), {"image": images})
        return probabilities


def load(artifact: Artifact, provider: str = "auto", threads: int = 1) -> Model:
    """A warm model on `provider`; `auto` is CUDA where it really works, else the CPU.

    Raises StartError if a demanded provider is not to be had or no provider reproduces the golden outputs.
    """
    candidates = ("cuda", "cpu") if provider == "auto" else (provider,)
    refused: list[str] = []
    for candidate in candidates:
        started = time.perf_counter()
        try:
            session = open_session(artifact.onnx, candidate, threads)
            deviation, batch_seconds = golden_check(session, artifact, FLOAT32_TOLERANCE)
        except ProviderError as err:
            refused.append(f"{candidate}: {err}")
            continue
        if provider != "auto":
            reason = f"SHORTCUT_PROVIDER={provider}"
        else:
            reason = "; ".join(refused) or "the first that reproduces the golden outputs"
        seconds = time.perf_counter() - started
        return Model(artifact, session, PROVIDERS[candidate], reason, deviation, seconds, batch_seconds)
    asked = "" if provider == "auto" else f"SHORTCUT_PROVIDER={provider}: "
    raise StartError(f"{asked}{artifact.path / 'model.onnx'} cannot be served: {'; '.join(refused)}")


def open_session(onnx: bytes, provider: str, threads: int) -> ort.InferenceSession:
    """A session that runs wholly on `provider` ("cuda", "openvino" or "cpu"), in float32. Raises ProviderError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # HTTP shares the cores
    try:
        if provider == "cuda":
            return _cuda_session(onnx, options)
        if provider == "openvino":
            _add_openvino(options, threads)
            return ort.InferenceSession(onnx, options)
        return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except ProviderError:
        raise
    except Exception as err:  # ONNX Runtime raises a class per status code, and RuntimeError for missing libraries
        raise ProviderError(" ".join(str(err).split())[:300]) from err


def _cuda_session(onnx: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Not run where there is no GPU. Sources: ONNX Runtime's "CUDA Execution Provider" page."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ProviderError("this onnxruntime was built without CUDA (install requirements/serving-gpu.txt)")
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        raise ProviderError("no NVIDIA GPU was found")
    ort.preload_dlls()
    # Without this entry a missing library falls back to the CPU while the provider still counts as available.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    cuda = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"})
    session = ort.InferenceSession(onnx, options, providers=[cuda])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise ProviderError("the CUDA or cuDNN libraries cannot be loaded")
    return session


def _add_openvino(options: ort.SessionOptions, threads: int) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise ProviderError(f"OpenVINO is used on x86-64 only, this is {platform.machine()}")
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as err:
        raise ProviderError("onnxruntime-ep-openvino is not installed (requirements/serving.txt has it)") from err
    name = PROVIDERS["openvino"]
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(name, plugin.get_library_path())
    devices = [
        device
        for device in ort.get_ep_devices()
        if device.ep_name == name and device.device.type == ort.OrtHardwareDeviceType.CPU
    ]
    if not devices:
        raise ProviderError("OpenVINO offers no CPU device here (the plugin accepts Intel CPUs only)")
    config = {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}}
    options.add_provider_for_devices(devices[:1], {"load_config": json.dumps(config)})


def golden_check(session: ort.InferenceSession, artifact: Artifact, tolerance: float) -> tuple[float, float]:
    """The largest difference to the golden probabilities, and the seconds of a warm run; also the session's warm-up.

    Raises ProviderError over `tolerance`, or if a top-1 changes whose margin in the reference exceeds twice that.
    """
    reference = artifact.golden_probabilities
    try:
        (answer,) = session.run(("probabilities",), {"image": artifact.golden_images})
        single = session.run(("probabilities",), {"image": artifact.golden_images[:1]})[0]
        seconds = min(timeit.repeat(lambda: session.run(None, {"image": artifact.golden_images}), number=1, repeat=3))
    except Exception as err:  # the runtime's own classes, as above
        raise ProviderError(" ".join(str(err).split())[:300]) from err
    deviation = max(float(np.abs(answer - reference).max()), float(np.abs(single - reference[:1]).max()))
    ordered = np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    flipped = int((answer.argmax(axis=1) != reference.argmax(axis=1))[clear].sum())
    if not deviation <= tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {tolerance:g}), "
            f"{flipped} answers changed"
        )
    return deviation, seconds


def available_cores() -> int:
    """The cores this process may use: affinity and the cgroup's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2: "<quota|max> <period>"
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores
