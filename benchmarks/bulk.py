"""How fast bulk work is beside the same work without Ray, and what memory it takes: a Markdown table.

`.venv-bulk/bin/python -m benchmarks.bulk [MODEL …]`, from the repository's root, with nothing else running. The bare
side is two processes that read, decode and compute the same files with the synchronous predictor, and keep nothing.
Both are timed in turn, without their start. The memory is that of all processes of a run, by PSS.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.pictures import subject

MODELS = ("digits_cnn-mnist", "efficientnet_lite0-imagenet")
BATCH = 32  # as bulk work's actors have it
WARM = 256  # pictures before a bare process is timed: in as many it may find a faster backend, as an actor at its start
ACTORS = 2
RATE = re.compile(r"([\d,]+) images/s after a start of")
LOOK_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--pictures", type=int, default=100_000, help="files of a small model (default: 100,000)")
    parser.add_argument("--photos", type=int, default=3_000, help="files of a model for photos (default: 3,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one-actor", action="store_true", help="measure one actor and one bare process too")
    parser.add_argument("--bare", type=Path, metavar="LIST", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.bare is not None:
        return bare(args.models[0], args.bare)
    print("| model | files | bare, images/s | bulk, images/s | bulk ÷ bare | two ÷ one, bare | two ÷ one, bulk | MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in args.models or MODELS:
        print(row(name, args), flush=True)
    return 0


def row(name: str, args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder) / "pictures", name, args)
        rates_of: dict[str, list[float]] = {"bare": [], "bulk": [], "one bare": [], "one": []}
        most = 0.0
        for number in range(args.rounds):
            rates_of["bare"].append(beside_each_other(name, files, Path(folder), ACTORS))
            rate, memory = bulk(name, files[0].parent, Path(folder) / f"answers-{number}.parquet", ACTORS)
            rates_of["bulk"].append(rate)
            most = max(most, memory)
            if args.one_actor:
                rates_of["one bare"].append(beside_each_other(name, files[::ACTORS], Path(folder), 1))
                rates_of["one"].append(bulk(name, files[0].parent, Path(folder) / f"one-{number}.parquet", 1)[0])
            print(f"{name}, round {number + 1} of {args.rounds}: {rates_of}", file=sys.stderr, flush=True)
    rates = " | ".join(f"{median(rates_of[kind]):,.0f}" for kind in ("bare", "bulk"))
    pairs = (("bulk", "bare"), ("bare", "one bare"), ("bulk", "one"))
    ratios = " | ".join(ratio(rates_of[one], rates_of[other]) for one, other in pairs)
    return f"| `{name}` | {len(files):,} | {rates} | {ratios} | {most:,.0f} |"


def ratio(rates: Sequence[float], others: Sequence[float]) -> str:
    """The median of the rounds."""
    return f"{median(a / b for a, b in zip(rates, others, strict=True)):.2f}" if others else "–"


def write(folder: Path, name: str, args: argparse.Namespace) -> list[Path]:
    """The pictures of the other benchmarks, again and again: the model's size, or 1024×768 for a model for photos."""
    one = subject(Path("models"), name)
    pictures = next(iter(one.photos.values())) if one.for_photos else one.small
    folder.mkdir()
    files = []
    for number in range(args.photos if one.for_photos else args.pictures):
        files.append(folder / f"{number:06}.{'jpg' if one.for_photos else 'png'}")
        files[-1].write_bytes(pictures[number % len(pictures)].data)
    return files


def beside_each_other(name: str, files: Sequence[Path], folder: Path, processes: int) -> float:
    """Images a second of so many bare processes together, each once it is warm."""
    lists = [folder / f"list-{number}" for number in range(processes)]
    for number, path in enumerate(lists):
        path.write_text("\n".join(map(str, files[number::processes])))
    commands = [[sys.executable, "-m", "benchmarks.bulk", name, "--bare", str(path)] for path in lists]
    # Sessions of their own, as Ray's processes have: Linux shares a busy machine's cores by session.
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) for command in commands
    ]
    results = [json.loads(process.communicate()[0]) for process in running]
    return float(sum(one["images"] / one["seconds"] for one in results))


def bare(name: str, list_of_files: Path) -> int:
    """One process: the rate over all files but the first ones."""
    from serving.engine.selection import Options
    from serving.repository.predictor import Predictor

    files = [Path(line) for line in list_of_files.read_text().split("\n")]
    predictor = Predictor.open(Path("models") / name, options=Options())
    began = 0.0
    for start in range(0, len(files), BATCH):
        if start == WARM:
            began = time.perf_counter()
        predictor.predict([path.read_bytes() for path in files[start : start + BATCH]])
    print(json.dumps({"images": len(files) - WARM, "seconds": time.perf_counter() - began}))
    return 0


def bulk(name: str, source: Path, output: Path, actors: int) -> tuple[float, float]:
    """Images a second as the command says them, and the most memory of its processes in MB."""
    command = [sys.executable, "-m", "serving.bulk", str(source), "--model", name, "--output", str(output)]
    process = subprocess.Popen(
        [*command, "--actors", str(actors)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watch = Memory(process.pid)
    output_text = process.communicate()[0]
    watch.end()
    rates = RATE.findall(output_text)
    if process.returncode or not rates:
        raise SystemExit(f"error: {' '.join(command)}: {output_text}")
    return float(rates[-1].replace(",", "")), watch.most / 1e6


class Memory(threading.Thread):
    """The most bytes that a process and all that it has started take together; shared pages count once."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.most = 0
        self._root, self._ended = psutil.Process(process), threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                processes: list[Any] = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            total = 0
            for one in processes:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:  # it has just ended
                    continue
            self.most = max(self.most, total)

    def end(self) -> None:
        self._ended.set()
        self.join()


if __name__ == "__main__":
    sys.exit(main())
