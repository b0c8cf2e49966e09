"""Does the GPU compute, how much faster than the CPU, and as rightly? `.venv/bin/python -m benchmarks.gpu --data …`

Opens each artifact as the service does, runs it under ONNX Runtime's profiler and counts on which execution provider
each convolution and matrix product really ran; then times it beside the CPU provider with all cores, both warm, in
turns; then classifies the test split, if one is given, on both. Exits with 1 if a node ran elsewhere, if the golden
outputs are not reproduced, or if the accuracy is not the CPU provider's.

`--provider cpu` goes the same way where there is no GPU (and finds a ratio of about 1).
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.accuracy import POINTS, CheckError, TestSplit, card_accuracy, read_split
from serving import artifacts
from serving.engine import cores
from serving.engine.buckets import Run
from serving.engine.providers import (
    BACKENDS,
    PROVIDERS,
    Backend,
    ProviderError,
    as_run,
    one_line,
    open_run,
    open_session,
)
from serving.engine.selection import open_backend
from serving.errors import StartError

BATCHES = (1, 8, 32)
ROUNDS = 5
HEAVY = ("Conv", "MatMul", "Gemm")  # an operator that these are part of: FusedConv, FusedMatMul, …
DEFAULT = "conv_resnet_deep-cifar10"


class NotProved(Exception):
    """Something else computed, or something else came of it; the message says what."""


@dataclass(frozen=True)
class Placement:
    """How many times a node of an operator was run by an execution provider, by ONNX Runtime's profile."""

    nodes: Counter[tuple[str, str]]  # (operator, provider)

    def require(self, provider: str) -> int:
        """How many convolutions and matrix products ran on `provider`, which are all. Raises NotProved."""
        heavy = {key: number for key, number in self.nodes.items() if any(kind in key[0] for kind in HEAVY)}
        elsewhere = [f"{n} {operator} on {other}" for (operator, other), n in heavy.items() if other != provider]
        if elsewhere or not heavy:
            raise NotProved(f"not on {provider}: {', '.join(elsewhere) or 'there was nothing to compute'}")
        return sum(heavy.values())

    def __str__(self) -> str:
        lines = []
        for provider in sorted({provider for _, provider in self.nodes}):
            there = [f"{n} {operator}" for (operator, other), n in sorted(self.nodes.items()) if other == provider]
            lines.append(f"{provider} ran {', '.join(there)}")
        return "; ".join(lines)


def placement(onnx: bytes, backend: Backend, images: np.ndarray, threads: int) -> Placement:
    """Of one run of `images` (N, H, W, C). Raises ProviderError."""
    with tempfile.TemporaryDirectory(prefix="shortcut-gpu-") as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(onnx, backend, threads, options)
        as_run(session, backend)(images)
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return read_profile(events)


def read_profile(events: list[dict[str, Any]]) -> Placement:
    """Only kernels name both; fences and the session's own events do not."""
    nodes = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
    return Placement(Counter((args["op_name"], args["provider"]) for args in nodes if args.get("provider")))


def rates(runs: Sequence[Run], images: np.ndarray, seconds: float) -> list[float]:
    """Images a second of each, the median of ROUNDS in which they take turns; `images` is the batch."""
    per_run: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(images)
    for _ in range(ROUNDS):
        for run, rate in zip(runs, per_run, strict=True):
            began, count = time.perf_counter(), 0
            while (taken := time.perf_counter() - began) < seconds / ROUNDS or not count:
                run(images)
                count += len(images)
            rate.append(count / taken)
    return [median(rate) for rate in per_run]


def accuracy(run: Run, artifact: artifacts.Artifact, split: TestSplit) -> float:
    """Percent of the test split."""
    right = 0
    for start in range(0, len(split), max(BATCHES)):
        indices = range(start, min(start + max(BATCHES), len(split)))
        best = run(np.stack([split.array(i) for i in indices])).probabilities.argmax(axis=1)
        right += sum(artifact.labels[k] == split.labels[i] for i, k in zip(indices, best, strict=True))
    return 100 * right / len(split)


def examine(artifact: artifacts.Artifact, backend: Backend, data: Path | None, seconds: float, threads: int) -> None:
    """Prints what is found. Raises NotProved, ProviderError, CheckError, and what ONNX Runtime raises while it runs."""
    golden = artifact.golden_images
    placed = placement(artifact.onnx, backend, golden, threads)
    print(f"{artifact.name} version {artifact.version}, {backend}: {placed}")
    count = placed.require(PROVIDERS[backend.provider])
    run, deviation = open_backend(artifact, backend, threads)
    plain = open_run(artifact.onnx, Backend("cpu"), threads)
    print(f"  all {count} convolutions and matrix products there; golden outputs within {deviation:.1e}")
    for size in BATCHES:
        batch = np.resize(golden, (size, *golden.shape[1:]))
        fast, slow = rates((run, plain), batch, seconds)
        beside = f"the CPU provider on {threads} cores {slow:,.0f}: {fast / slow:.2f} times as fast"
        print(f"  batch {size}: {fast:,.0f} images/s, {beside}")
    if data is not None:
        split = read_split(data, artifact.card)
        measured, expected = accuracy(run, artifact, split), accuracy(plain, artifact, split)
        card = card_accuracy(artifact.card)
        beside = "the card records none" if card is None else f"the card's on its own data {card:.2f} %"
        print(f"  accuracy {measured:.2f} %, the CPU provider's {expected:.2f} %, {beside}")
        if abs(measured - expected) > POINTS:
            raise NotProved(f"the accuracy differs from the CPU provider's by more than {POINTS} points")


def latest(model: Path) -> Path:
    """Its newest version's folder. Raises StartError."""
    versions = artifacts.versions_of(model) if model.is_dir() else []
    if not versions:
        raise StartError(f"{model}: no such model")
    return versions[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("model", nargs="*", default=[DEFAULT], help=f"default: {DEFAULT}")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the artifacts (default: %(default)s)")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="(default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="of the accuracy: an .npz with Keras' keys or a folder test/<class>/*"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing (default: %(default)g)")
    args = parser.parse_args(argv)
    threads = cores.available()
    try:
        for name in args.model:
            artifact = artifacts.read(latest(args.models / name))
            for backend in (backend for backend in BACKENDS if backend.provider == args.provider):
                examine(artifact, backend, args.data, args.seconds, threads)
    except (StartError, ProviderError, CheckError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except NotProved as err:
        print(f"NOT PROVED: {err}", file=sys.stderr)
        return 1
    except Exception as err:  # of ONNX Runtime while it runs: a class per status code
        print(f"NOT PROVED: it fails while it runs: {one_line(err)}", file=sys.stderr)
        return 1
    print("proved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
