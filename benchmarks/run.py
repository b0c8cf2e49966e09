"""`python -m benchmarks.run`: our service beside its peers and the bare runtime, as a table.

Reads the command line, calls `rounds` for each model and writes the result. Run it from the repository's root with
.venv-bench; our own service is started from .venv, as `make serve` does.
"""

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import psutil

from benchmarks import report, rounds
from benchmarks.load import LoadError
from benchmarks.pictures import subject
from benchmarks.servers import (
    CONTENDERS,
    CORES,
    DEFAULT_PEERS,
    EMPTY,
    MLSERVER_PYTHON,
    OURS,
    OURS_CPU,
    SERVING_BIN,
    ServerError,
)

RESULTS = Path(__file__).with_name("results")
MODELS = ("dense_resnet-mnist", "conv_resnet_deep-cifar10")
ACCEPTANCE_MODELS = ("conv_resnet_deep-cifar10", "dense_resnet-mnist", "efficientnet_lite0-imagenet")
QUICK_MODELS = ("conv_resnet_shallow-cifar10",)
CONNECTIONS = (1, 8, 32, 64)
ACCEPTANCE_CONNECTIONS = (1, 32, 64)
BUSY = 0.25  # cores that others may use before the figures are called preliminary
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ELSEWHERE = {"mlserver": MLSERVER_PYTHON, "openvino": SERVING_BIN / "python"}  # environments of their own
PACKAGES = ("bentoml", "fastapi", "litserve", "mosec", "ray", "onnxruntime", "numpy", "pillow", "uvicorn")


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for package, python in ELSEWHERE.items():
        code = f"from importlib.metadata import version; print(version('{package}'))"
        versions[package] = _first_line([str(python), "-c", code]) or "missing"
    return {
        "cpu": _cpu("model name") or platform.machine(),
        "cpu_kind": cpu_kind(),
        "cores": int(CORES),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": versions,
        "wrk": _first_line(["wrk", "-v"]),
        "revision": _first_line(["git", "describe", "--always", "--dirty"]),
    }


def _cpu(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def cpu_kind() -> str:
    """What matters most for a matrix product: figures of different kinds of CPU stand side by side in the report."""
    flags = set(_cpu("flags").split())
    if {"amx_tile", "amx_bf16"} <= flags:
        return "AMX"
    return "avx512_bf16" if "avx512_bf16" in flags else "neither AMX nor avx512_bf16"


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or (done.stderr if command[0] == "wrk" else "")).strip().partition("\n")[0]


def busy_cores(seconds: float = 2.0) -> float:
    """How many cores' worth of CPU something else takes before we begin."""
    return psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: " + " ".join(MODELS))
    peers = [name for name in CONTENDERS if name not in (OURS, EMPTY)]
    parser.add_argument("--peers", nargs="*", choices=peers, help=f"default: {' '.join(DEFAULT_PEERS)}")
    parser.add_argument("--all", action="store_true", help="Ray Serve too (needs requirements/bench-ray.txt)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, help="of each measurement (default: 5)")
    parser.add_argument("--connections", type=int, nargs="+", metavar="N", help=f"default: {_words(CONNECTIONS)}")
    parser.add_argument(
        "--cells",
        choices=("all", "acceptance"),
        default="all",
        help="acceptance: what the aims are about, of three models, in 25 minutes (2 s a cell, connections "
        f"{_words(ACCEPTANCE_CONNECTIONS)}, without {OURS_CPU})",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: one model, one round, 1 s a cell")
    parser.add_argument("--artifacts", type=Path, default=Path("models"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    acceptance = args.cells == "acceptance"
    if args.peers is None:
        args.peers = [name for name in DEFAULT_PEERS if not (acceptance and name == OURS_CPU)]
        args.peers += ["ray"] if args.all else []
    args.models = args.models or (QUICK_MODELS if args.quick else ACCEPTANCE_MODELS if acceptance else MODELS)
    args.seconds = 2 if args.seconds is None and acceptance else 5 if args.seconds is None else args.seconds
    args.connections = args.connections or (ACCEPTANCE_CONNECTIONS if acceptance else CONNECTIONS)
    if args.quick:
        args.rounds, args.seconds, args.connections = 1, 1, (1, 32)
    if args.rounds < 1 or args.seconds < 1 or min(args.connections) < 1:
        parser.error("--rounds, --seconds and --connections must be at least 1")
    return args


def _words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The result that `report` understands; written after each model, so that what comes later cannot lose it."""
    _check_environments()
    subjects = [subject(args.artifacts, name) for name in args.models]
    busy = busy_cores()
    preliminary = []
    if args.quick or args.rounds < 5:
        preliminary.append(f"{args.rounds} round(s) of {args.seconds} s only")
    if busy > BUSY:
        preliminary.append(f"something else took {busy:.1f} of {CORES} cores when the run began")
        say(f"warning: {preliminary[-1]}; the figures will be worth little")
    plan = rounds.Plan(
        contenders=[OURS, *args.peers],
        rounds=args.rounds,
        seconds=args.seconds,
        warm_seconds=0 if args.quick else 1,
        connections=sorted(args.connections),
        acceptance=args.cells == "acceptance",
    )
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "preliminary": preliminary,
        "conditions": conditions(),
        "plan": vars(plan),
        "models": {},
        "failed": {},
    }
    for one in subjects:
        began = time.monotonic()
        say(f"{one.name}: starting {', '.join(plan.contenders)}")
        try:
            model = rounds.measure(one, plan, say)
        except (ServerError, LoadError) as err:
            result["failed"][one.name] = str(err)
            say(f"error: {one.name}: {err}")
            continue
        result["models"][one.name] = {**model, "ratios": report.ratios(model)}
        say(f"{one.name}: took {(time.monotonic() - began) / 60:.1f} minutes; written to {write(result, args)}")
    return result


def _check_environments() -> None:
    if not Path(".venv/bin/bentoml").exists():
        raise ServerError(
            ".venv/bin/bentoml: not found; run from the repository's root, after `make serve` built .venv"
        )
    if shutil.which("wrk") is None:
        raise LoadError("wrk is missing: install it with `apt-get install wrk` (or `brew install wrk`)")


def write(result: dict[str, Any], args: argparse.Namespace) -> Path:
    args.results.mkdir(exist_ok=True)
    stem = "quick" if args.quick else result["date"].replace(" UTC", "").replace(" ", "T").replace(":", "")
    path = args.results / f"{stem}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_name("quick.md" if args.quick else "latest.md").write_text(report.markdown(result))
    return path


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> NoReturn:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # the servers are being stopped; a second Ctrl-C must not cut that short
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    for number in ENDING:
        signal.signal(number, _interrupt)
    try:
        result = run(args)
    except (ServerError, LoadError, FileNotFoundError) as err:
        say(f"error: {err}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; every server was stopped")
        return 130
    print(report.markdown(result))
    failed = report.errors(result)
    if failed:
        say(f"error: {failed} answers were not 200 or never came")
    left_out = sorted({name for model in result["models"].values() for name in model["left_out"]})
    if left_out:
        say(f"error: left out for some model: {', '.join(left_out)}")
    problems = result["failed"] or any(model["problems"] for model in result["models"].values())
    return 1 if failed or left_out or problems else 0


if __name__ == "__main__":
    sys.exit(main())
