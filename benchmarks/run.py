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
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import psutil

from benchmarks import report, rounds
from benchmarks.load import LoadError
from benchmarks.pictures import subject
from benchmarks.servers import CONTENDERS, CORES, DEFAULT_PEERS, EMPTY, OURS, ServerError

RESULTS = Path(__file__).with_name("results")
MODELS = ("dense_resnet-mnist", "conv_resnet_deep-cifar10")
QUICK_MODELS = ("conv_resnet_shallow-cifar10",)
CONNECTIONS = (1, 8, 32, 64)
BUSY = 0.25  # cores that others may use before the figures are called preliminary
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PACKAGES = ("bentoml", "fastapi", "litserve", "mosec", "ray", "onnxruntime", "numpy", "pillow", "uvicorn")


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": int(CORES),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": versions,
        "wrk": _first_line(["wrk", "-v"]),
        "revision": _first_line(["git", "describe", "--always", "--dirty"]),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


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
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, metavar="N")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one model, one round, 1 s a cell")
    parser.add_argument("--artifacts", type=Path, default=Path("models"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.seconds < 1 or min(args.connections) < 1:
        parser.error("--rounds, --seconds and --connections must be at least 1")
    if args.peers is None:
        args.peers = [*DEFAULT_PEERS, *(["ray"] if args.all else [])]
    if args.models is None:
        args.models = QUICK_MODELS if args.quick else MODELS
    if args.quick:
        args.rounds, args.seconds, args.connections = 1, 1, (1, 32)
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The result that `report` understands."""
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
    )
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "preliminary": preliminary,
        "conditions": conditions(),
        "plan": vars(plan),
        "models": {},
    }
    for one in subjects:
        say(f"{one.name}: starting {', '.join(plan.contenders)}")
        model = rounds.measure(one, plan, say)
        result["models"][one.name] = {**model, "ratios": report.ratios(model)}
    return result


def _check_environments() -> None:
    if not Path(".venv/bin/bentoml").exists():
        raise ServerError(
            ".venv/bin/bentoml: not found; run from the repository's root, after `make serve` built .venv"
        )
    if shutil.which("wrk") is None:
        raise LoadError("wrk is missing: install it with `apt-get install wrk` (or `brew install wrk`)")


def write(result: dict[str, Any], quick: bool) -> Path:
    RESULTS.mkdir(exist_ok=True)
    stem = "quick" if quick else result["date"].replace(" UTC", "").replace(" ", "T").replace(":", "")
    path = RESULTS / f"{stem}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / ("quick.md" if quick else "latest.md")).write_text(report.markdown(result))
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
    path = write(result, args.quick)
    print(report.markdown(result))
    say(f"written to {path}")
    failed = report.errors(result)
    if failed:
        say(f"error: {failed} answers were not 200 or never came")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
