"""`python -m serving.classify FILE|FOLDER…`: the service's answers without a server, from the same code."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serving.edge.http1 import failure_content
from serving.engine import cores
from serving.engine.measurements import Measurements
from serving.errors import ClassifyError, StartError
from serving.protocols.answers import predictions
from serving.repository import models
from serving.repository.answers import Answer, rank
from serving.repository.predictor import Predictor
from serving.settings import Settings

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"}  # read from a folder
TOOLS = {"__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found"}  # folders that tools leave in folders
AT_ONCE = 16  # pictures that are read and computed together


def pictures(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths`, and in the place of each folder the pictures below it, sorted."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in TOOLS)
            names = (name for name in sorted(files) if not name.startswith("."))
            yield from (Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES)


def classify_files(predictor: Predictor, files: Sequence[Path], top_k: int) -> list[dict[str, Any]]:
    """One result per file, in order, shaped as POST /classify/batch shapes them; how far it is goes to a terminal."""
    results: list[dict[str, Any]] = []
    for start in range(0, len(files), AT_ONCE):
        results += _classify(predictor, files[start : start + AT_ONCE], top_k)
        if len(files) > AT_ONCE and sys.stderr.isatty():
            end = "\n" if len(results) == len(files) else ""
            print(f"\rclassified {len(results):,} of {len(files):,} pictures", end=end, file=sys.stderr, flush=True)
    return results


def _classify(predictor: Predictor, files: Sequence[Path], top_k: int) -> Iterator[dict[str, Any]]:
    contents = [_content(file) for file in files]
    outcomes = iter(predictor.predict([content for content in contents if isinstance(content, bytes)]))
    for file, content in zip(files, contents, strict=True):
        outcome = next(outcomes) if isinstance(content, bytes) else content
        if isinstance(outcome, Answer):
            yield {"filename": str(file), **predictions(outcome, rank(outcome, top_k))}
        elif isinstance(outcome, ClassifyError):
            yield {"filename": str(file), **failure_content(outcome)}
        else:
            yield {"filename": str(file), "error": f"cannot be read: {outcome.strerror}", "code": "unreadable_file"}


def _content(file: Path) -> bytes | OSError:
    try:
        return file.read_bytes()
    except OSError as err:
        return err


def write_csv(path: Path, results: Sequence[dict[str, Any]], top_k: int) -> None:
    """A row for each file: label and probability of its `top_k` classes, the most probable first, or its error."""
    ranks = [f"{what}_{k}" for k in range(1, top_k + 1) for what in ("label", "probability")]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["file", *ranks, "unsure", "error"], restval="")
        writer.writeheader()
        for result in results:
            row = {"file": result["filename"], "unsure": result.get("unsure", ""), "error": result.get("error", "")}
            for k, prediction in enumerate(result.get("predictions", ()), 1):
                row |= {f"label_{k}": prediction["label"], f"probability_{k}": prediction["probability"]}
            writer.writerow(row)


def _table(results: Sequence[dict[str, Any]]) -> str:
    """A line for each file: the first label, its probability, the file."""
    lines = []
    for result in results:
        if first := next(iter(result.get("predictions", ())), None):
            cells = f"{first['label']:<24} {first['probability']:.4f}  {result.get('unsure', ''):<15}"
        else:
            cells = f"{'error: ' + result['code']:<47}"
        lines.append(f"{cells} {result['filename']}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.classify", description="Classify images without a server.")
    text = "pictures, or folders of them, of which a table is printed in place of JSON"
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=text)
    parser.add_argument("--model", help="default: SHORTCUT_DEFAULT_MODEL")
    parser.add_argument("--version", type=int, help="default: the latest")
    parser.add_argument("--top-k", type=int, default=3, help="classes to print for each image (default: 3)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each picture to this file")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        parser.error(f"--top-k must be at least 1, got {args.top_k}")
    try:
        settings = Settings.from_environment()
        # As the service's workers, so that the choice is theirs.
        _, threads = cores.layout(settings.workers, settings.provider)
        path = models.folder_of(settings, args.model, args.version)
        predictor = Predictor.open(
            path,
            options=models.options(settings, threads),
            measurements=Measurements(settings.cache),
            max_pixels=settings.max_pixels,
        )
    except StartError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    files = list(pictures(args.files))
    if not files:
        print(f"error: no picture by its name in {', '.join(map(str, args.files))}", file=sys.stderr)
        return 1
    top_k = min(args.top_k, len(predictor.artifact.labels))
    results = classify_files(predictor, files, top_k)
    if args.csv:
        try:
            write_csv(args.csv, results, top_k)
        except OSError as err:
            print(f"error: {args.csv}: cannot be written ({err.strerror})", file=sys.stderr)
            return 1
        print(f"wrote {args.csv}: {len(results):,} pictures, {sum('error' in r for r in results):,} with errors")
    elif any(path.is_dir() for path in args.files):
        print(_table(results))
    else:
        head = {"model": predictor.artifact.name, "version": predictor.artifact.version}
        print(json.dumps(head | {"results": results}, indent=2, ensure_ascii=False))
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
