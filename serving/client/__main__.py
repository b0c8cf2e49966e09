"""`python -m serving.client classify FILE…` and `… classify-folder DIR`: parses, calls and prints."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serving.client.clients import Client
from serving.client.files import classify_files, files_below, slashed
from serving.client.protocol import Answer, Options, Result
from serving.client.table import Table
from serving.errors import ClassifyError

KEY = "CLASSIFY_API_KEY"  # not SHORTCUT_…: the service takes an unknown variable of that kind for a misspelt setting
FINAL = (400, 413, 415, 422)  # statuses of failures that would be the same another time


def classify(args: argparse.Namespace, client: Client, options: Options) -> bool:
    results: dict[str, Result] = {}
    classify_files(client, args.files, results.update, options, args.batch, args.concurrency)
    for file in args.files:
        result = results[file]
        if args.json:
            print(json.dumps({"file": file} | _as_json(result)))
        elif isinstance(result, Answer):
            classes = ", ".join(f"{best.label} {best.probability:.4f}" for best in result.predictions)
            print(f"{file}: {classes}" + (f" (unsure: {result.unsure})" if result.unsure else ""))
        else:
            print(f"{file}: {result} ({result.code})")
    return all(isinstance(result, Answer) for result in results.values())


def _as_json(result: Result) -> dict[str, Any]:
    if isinstance(result, ClassifyError):
        return {"error": str(result), "code": result.code}
    return asdict(result)


def classify_folder(args: argparse.Namespace, client: Client, options: Options) -> bool:
    folder = slashed(args.folder).rstrip("/") + "/"
    files, problems = files_below(folder, args.output)
    table = Table(args.output, args.top_k, files, args.bom)
    left = [folder + file for file in files if file not in table.done]
    bar = _Bar(len(left))

    def report(results: list[tuple[str, Result]]) -> None:
        final = []
        for file, result in results:
            if isinstance(result, Answer) or result.status in FINAL:
                final.append((file.removeprefix(folder), result))
            else:
                problems.append(f"{file}: {result} ({result.code})")
        table.add(final)
        bar.update(len(results))

    try:
        classify_files(client, left, report, options, args.batch, args.concurrency)
    finally:
        bar.end()
        table.close()
        for problem in sorted(problems):
            print(problem, file=sys.stderr)
    refused = len(table.refused)
    print(f"{args.output}: {len(table.done) - refused:,} answered, {refused:,} refused (see `code`)")
    if problems:
        print(f"{len(problems):,} without an answer; the same command asks about them again", file=sys.stderr)
    return not problems and not table.refused


class _Bar:
    """How far it is, on a terminal; nothing elsewhere."""

    def __init__(self, total: int):
        self._total, self._done, self._began = total, 0, time.monotonic()
        self._shown = sys.stderr.isatty()

    def update(self, count: int) -> None:
        self._done += count
        if self._shown:
            rate = self._done / max(time.monotonic() - self._began, 1e-6)
            left = (self._total - self._done) / rate
            share = self._done / self._total
            bar = "#" * int(30 * share)
            print(f"\r[{bar:<30}] {self._done}/{self._total}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown and self._done:
            print(file=sys.stderr)


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Ask a running service about pictures."
    )
    commands = parser.add_subparsers(required=True)
    files = commands.add_parser("classify", help="print the answers about some files")
    files.add_argument("files", nargs="+", metavar="FILE")
    files.add_argument("--json", action="store_true", help="one line of JSON a file")
    files.set_defaults(run=classify)
    folder = commands.add_parser(
        "classify-folder", help="write the answers about a folder; goes on where it was stopped"
    )
    folder.add_argument("folder", metavar="DIR")
    folder.add_argument("--output", required=True, metavar="answers.csv", help="a line a file, in no certain order")
    folder.add_argument("--bom", action="store_true", help="begin a new table so that spreadsheets read it as UTF-8")
    folder.set_defaults(run=classify_folder)
    for command, top_k in ((files, 3), (folder, 1)):
        add = command.add_argument
        add("--url", default="http://localhost:3000", help="default: %(default)s")
        add(
            "--api-key",
            default=os.environ.get(KEY, "").strip(),
            help=f"better in the variable {KEY}: not everybody sees it",
        )
        add("--cacert", metavar="FILE", help="certificates to trust in place of the usual ones, in PEM form")
        add("--model", help="default: the service's")
        add("--version", type=int, help="default: the latest")
        add("--top-k", type=_at_least_one, default=top_k, help="classes a file; default: %(default)s")
        add("--min-probability", help="0 to 1, or `card` for the model's own: below, an answer is unsure")
        add("--batch", type=_at_least_one, default=64, help="files a request; default: %(default)s")
        add("--concurrency", type=_at_least_one, default=8, help="requests at once; default: %(default)s")
    return parser


def _run(args: argparse.Namespace) -> bool:
    names = ("model", "version", "top_k", "min_probability")
    options: Any = {name: value for name in names if (value := getattr(args, name)) is not None}
    with Client(args.url, api_key=args.api_key, cacert=args.cacert) as client:
        return bool(args.run(args, client, options))


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every file has an answer, 1 if not."""
    args = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files keep their bytes
    try:
        return 0 if _run(args) else 1
    except (ClassifyError, OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
