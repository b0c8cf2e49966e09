"""`python -m serving.bulk SOURCE --output answers.parquet`: the service's answers for many pictures, on Ray Data.

Reads the command line, gives the chunks of the source to actors, and keeps what they answer. A run that was interrupted
goes on where it was.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.engine import cores
from serving.engine.measurements import FILE as MEASURED
from serving.engine.measurements import Measurements
from serving.errors import StartError
from serving.repository import models
from serving.repository.predictor import Predictor
from serving.settings import Settings

try:
    from serving.bulk import sources
    from serving.bulk.parts import Output, OutputError
    from serving.bulk.reading import Work, artifact_files
except ImportError as err:
    sys.exit(f"error: {err}. Bulk work has an environment of its own: `make bulk` sets it up")

SHOWN_ERRORS = 10
TELL_SECONDS = 1.0
TELL_SECONDS_IN_LOG = 30.0


@dataclass(frozen=True)
class Rate:
    """`images` were answered in `seconds`, of which `start_seconds` went by before all actors were at work."""

    images: int
    seconds: float
    start_seconds: float
    first: int  # images that were answered in them

    def __str__(self) -> str:
        lasted = self.seconds - self.start_seconds
        if self.images > self.first and lasted > 0:
            return f"{(self.images - self.first) / lasted:,.0f} images/s after a start of {self.start_seconds:.1f} s"
        return f"{self.images / max(self.seconds, 1e-9):,.0f} images/s, the start of Ray and of the model included"


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        work = _work(args)
        metadata = _metadata(work)
        output = Output(args.output, metadata)
        before = len(output.done)
        chunks = list(sources.chunks(args.source, output.done, args.column))
    except (StartError, OutputError, sources.SourceError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    wanted = sum(map(len, chunks))
    if before:
        print(f"{before:,} pictures are answered already, {wanted:,} are left", file=sys.stderr)
    if not wanted and not before:
        print(f"error: {args.source}: holds no picture", file=sys.stderr)
        return 1
    rate = None
    try:
        if chunks:
            rate = _run(work, chunks, args, output, wanted)
        counts = output.merge()
    except KeyboardInterrupt:
        output.flush()
        print(f"\nstopped; {_kept(output)}", file=sys.stderr)
        return 130
    except OutputError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except Exception as err:  # Ray's are many
        output.flush()
        print(f"error: {_one_line(err)}; {_kept(output)}", file=sys.stderr)
        return 1
    for name, error in output.listed_errors(SHOWN_ERRORS):
        print(f"{name}: {error}", file=sys.stderr)
    if counts.errors > SHOWN_ERRORS:
        print(f"and {counts.errors - SHOWN_ERRORS:,} more errors, in the column error", file=sys.stderr)
    print(
        f"wrote {output.path}: {counts.pictures:,} pictures, {counts.errors:,} with errors, {counts.unsure:,} unsure; "
        f"{metadata['model']} version {metadata['version']}"
    )
    if rate is not None:
        print(f"{rate.images:,} answered now in {rate.seconds:.1f} s: {rate}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.bulk",
        description="Classify many pictures, on Ray Data. The same command again goes on with what is left.",
        epilog="Columns of the output: file, label, probability, predictions, unsure, error, code. Rows have no order.",
    )
    text = (
        "a folder, a picture, a list of files (.txt; - for standard input), a Parquet file, a WebDataset tar, a glob, "
    )
    parser.add_argument(
        "source", metavar="SOURCE", help=text + "or any of these by an fsspec URL, as s3://bucket/prefix"
    )
    parser.add_argument("--model", help="a served model's name, or a model's folder; default: SHORTCUT_DEFAULT_MODEL")
    parser.add_argument("--version", type=int, help="default: the latest")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.parquet", help="the answers, a row a picture"
    )
    parser.add_argument("--top-k", type=int, default=3, help="classes to keep for each picture (default: 3)")
    text = "0 to 1, or `card`: a less probable answer is unsure"
    parser.add_argument("--min-probability", type=_min_probability, metavar="P", help=text)
    parser.add_argument(
        "--column", help="of a Parquet source, that holds the pictures (default: image, bytes, content …)"
    )
    parser.add_argument(
        "--actors", type=int, help="processes that compute (default: one a core of the machine or cluster)"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs that one actor takes, as 1 or 0.5 (default: 0)")
    text = "of a Ray cluster, as ray://head:10001 or auto (default: Ray is started on this machine)"
    parser.add_argument("--address", help=text)
    return parser


def _min_probability(text: str) -> float | str:
    if text == "card":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, or card, got {text}")
    return value


def _work(args: argparse.Namespace) -> Work:
    """Raises StartError. The model is opened here once: what is wrong with it shows before Ray starts, and which
    backend is the fastest is measured while nothing else computes."""
    for name, value, least in (("--top-k", args.top_k, 1), ("--actors", args.actors, 1), ("--gpus", args.gpus, 0)):
        if value is not None and value < least:
            raise StartError(f"{name} must be at least {least}, got {value}")
    settings = Settings.from_environment()
    folder = _folder(settings, args.model, args.version)
    _, threads = cores.layout(settings.workers, settings.provider)
    options = models.options(settings, threads)
    with tempfile.TemporaryDirectory(prefix="shortcut-bulk-") as shared:
        measurements = Measurements(settings.cache, Path(shared))
        model = Predictor.open(folder, options=options, measurements=measurements).model
        file = Path(shared, MEASURED)
        measured = file.read_bytes() if file.exists() else b""
    artifact = model.artifact
    return Work(
        artifact.name,
        artifact.version,
        artifact_files(artifact.path),
        options,
        settings.cache,
        model.image_seconds,
        measured,
        settings.max_pixels,
        settings.max_body_bytes,
        min(args.top_k, len(artifact.labels)),
        args.min_probability,
    )


def _folder(settings: Settings, model: str | None, version: int | None) -> Path:
    """`model` is a folder where one is called so, else the name of a served model."""
    if model is None or not Path(model).is_dir():
        return models.folder_of(settings, model, version)
    folder = Path(model).resolve()
    return folder if version is None else folder / str(version)


def _metadata(work: Work) -> dict[str, str]:
    """What all answers of one file have in common."""
    asked = {"top_k": str(work.top_k), "min_probability": str(work.min_probability)}
    sha256 = hashlib.sha256(work.files["model.onnx"]).hexdigest()
    return {"model": work.name, "version": str(work.version), "sha256": sha256, **asked}


def _run(work: Work, chunks: list[sources.Chunk], args: argparse.Namespace, output: Output, wanted: int) -> Rate:
    """Keeps each answer as it comes. Raises whatever Ray does, and KeyboardInterrupt on SIGTERM too."""
    began = now = time.monotonic()
    first_at, first, count, bad, reported = 0.0, 0, 0, 0, began
    starting = args.actors or cores.available()
    every = TELL_SECONDS if sys.stderr.isatty() else TELL_SECONDS_IN_LOG
    from serving.bulk import running  # Ray: seconds, which a wrong argument shall not cost

    for table in running.answers(work, chunks, args.actors, args.gpus, args.address):
        now = time.monotonic()
        count += len(table)
        if starting:  # what the others have computed by now counts too, once it comes
            starting, first_at, first = starting - 1, now - began, count
        bad += len(table) - table["error"].null_count
        output.add(table)
        # In a log too, the first answers are told at once: the start was long.
        if now - reported >= every or reported == began or (count == wanted and sys.stderr.isatty()):
            reported = now
            start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
            rate = Rate(count, now - began, first_at, first)
            print(f"{start}{count:,} of {wanted:,} pictures, {bad:,} bad, {rate}", end=end, file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return Rate(count, now - began, first_at, first)  # Ray has ended since


def _one_line(err: Exception) -> str:
    """The last line of what Ray says, which names the cause; the lines before are its own frames."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[-1] if lines else 'no reason given'}"


def _kept(output: Output) -> str:
    if not output.answered:
        return "nothing was answered"
    return f"{output.answered:,} answers are kept in {output.folder}: the same command goes on with what is left"


if __name__ == "__main__":
    sys.exit(main())
