"""Where a request's time goes: µs of CPU in each stage, as a Markdown table.

`.venv/bin/python -m benchmarks.stages [MODEL …]`, from the repository's root. Decoding and running are timed in this
process, with the service's own functions on one thread; what HTTP, queue, ranking and JSON add is what remains of the
CPU that the real service takes for a request under load. wrk's own CPU stands beside it, since it shares the cores.
"""

import argparse
import itertools
import resource
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Load, LoadError
from benchmarks.pictures import Picture, Subject, subject
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError, short_name
from serving import artifacts
from serving.engine import selection
from serving.engine.measurements import Measurements
from serving.engine.selection import Options
from serving.images.picture import decode_image
from serving.images.png import plain_png

MODELS = ("dense_resnet-mnist", "conv_resnet_shallow-cifar10", "conv_resnet_deep-cifar10")
CONNECTIONS = 32
BATCH = 32
MAX_PIXELS = 64_000_000  # the service's default limit
REPEATS = 7


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """CPU of one call, the median of REPEATS timings that take `seconds` in all."""
    timer = timeit.Timer(call, timer=time.process_time)
    once = min(timer.repeat(3, 1))
    number = max(1, int(seconds / REPEATS / once))
    return 1e6 * median(timer.repeat(REPEATS, number)) / number


def in_process(one: Subject, provider: str, precision: str, seconds: float) -> dict[str, float]:
    """Decoding, and running on the provider that the service took, with nothing around them."""
    artifact = artifacts.read(one.artifact)
    with tempfile.TemporaryDirectory() as nothing_measured:
        measurements = Measurements(Path(nothing_measured))
        options = Options(short_name(provider), precision)
        model = selection.faster(selection.load(artifact, measurements, options), measurements, options)
    shape, convention, resample = artifact.input_shape, artifact.input_convention, artifact.resample

    def decoded(data: bytes) -> np.ndarray:
        """As serving.repository.served does it."""
        array = plain_png(data, shape, convention)
        return decode_image(data, shape, convention, resample, MAX_PIXELS) if array is None else array

    # What the service is asked about; most golden images are close calls, which are computed twice.
    images = np.stack([decoded(picture.data) for picture in one.small[:BATCH]])

    def decoding(pictures: Sequence[Picture]) -> float:
        files = itertools.cycle([picture.data for picture in pictures])
        return microseconds(lambda: decoded(next(files)), seconds)

    return {
        "decode": decoding(one.small),
        **{f"decode {photos.title}": decoding(pictures) for photos, pictures in one.photos.items()},
        "run 1": microseconds(lambda: model.run(images[:1]), seconds),
        "run batch": microseconds(lambda: model.run(images), seconds) / len(images),
    }


def end_to_end(one: Subject, contender: str, seconds: int) -> tuple[dict[str, float], dict[str, str]]:
    """CPU of the service's processes and of wrk for one request, at CONNECTIONS connections; and what the service
    says of its provider."""
    with Server(CONTENDERS[contender], one) as server:
        load = Load(server.port, server.path, [server.body(picture.data) for picture in one.small])
        try:
            load.closed(CONNECTIONS, 1)
            service, generator = server.cpu_seconds(), _children()
            figures = load.closed(CONNECTIONS, seconds).all_answered(one.name)
            service, generator = server.cpu_seconds() - service, _children() - generator
        finally:
            load.close()
        answered = figures.rate * seconds
        used = {
            "rate": figures.rate,
            "service": 1e6 * service / answered,
            "wrk": 1e6 * generator / answered,
        }
        return used, server.provider()


def _children() -> float:
    """CPU seconds of the children that ended: of wrk, while the server still runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(measured: dict[str, dict[str, float | str]]) -> str:
    rows: list[list[str]] = [["µs a request", *measured], ["---"] + ["---:"] * len(measured)]
    photos = dict.fromkeys(key for figures in measured.values() for key in figures if key.startswith("decode "))
    for title, key in (
        ("decode a picture of the model's size", "decode"),
        *((key.replace("decode", "decode a", 1), key) for key in photos),
        ("run one image", "run 1"),
        (f"run, an image's share of a batch of {BATCH}", "run batch"),
        (f"service in all, at {CONNECTIONS} connections", "service"),
        (f"of it HTTP, queue, ranking and JSON (all but decoding and a share of a batch of {BATCH})", "rest"),
        ("wrk", "wrk"),
    ):
        rows.append([title, *(f"{figures[key]:,.0f}" if key in figures else "–" for figures in measured.values())])
    rows.append([f"requests/s at {CONNECTIONS} connections", *(f"{m['rate']:,.0f}" for m in measured.values())])
    rows.append(["provider", *(str(m["provider"]) for m in measured.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure(one: Subject, contender: str, seconds: int) -> dict[str, float | str]:
    """Raises LoadError, ServerError."""
    served, took = end_to_end(one, contender, seconds)
    alone = in_process(one, took["provider"], took["precision"], min(1.0, seconds))
    rest = served["service"] - alone["decode"] - alone["run batch"]
    return {**alone, **served, "rest": rest, "provider": f"{short_name(took['provider'])} {took['precision']}"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--server", choices=[name for name, c in CONTENDERS.items() if c.ours], default=OURS)
    parser.add_argument("--seconds", type=int, default=5, help="of load (default: %(default)s)")
    parser.add_argument("--artifacts", type=Path, default=Path("models"), help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        measured = {name: measure(subject(args.artifacts, name), args.server, args.seconds) for name in args.models}
    except (ServerError, LoadError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(markdown(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
