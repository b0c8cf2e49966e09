"""`python -m study`: the study of the networks' claims, from run records to docs/study.md.

Reads the records there are, makes those that are missing (cheapest first, each kept as soon as it is finished, so an
interrupted study continues where it stopped) and writes the page with its plots. Only parses and calls.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from study.claims import claims, judge
from study.experiments import FULL, QUICK, Committed, Row, experiments
from study.records import Records
from study.report import write_report
from training.data.dataset import Dataset, DatasetError
from training.data.loading import load

QUICK_IMAGE_SIZE = 16  # pixels; the convolutional networks need 13


def make_missing(
    records: Records, only: str, load_named: Callable[[str], Dataset], models: Path, quick: bool
) -> list[str]:
    """Run the experiments without a record whose name matches `only`, in the table's order.

    Returns what could not be made, and why. Each result is kept as soon as it is there.
    """
    import tensorflow as tf

    from study.measure import MissingRun, Workplace, run

    tf.config.experimental.enable_op_determinism()  # as training.fit, which also keeps XLA out of the timings
    tf.get_logger().setLevel("ERROR")  # it warns of many compiled functions: many networks are the point here
    workplace = Workplace(load_named, models, eagerly=quick)
    todo = [records.rows[name] for name in records.missing(records.rows) if fnmatch(name, only)]
    left, spent, planned = [], 0.0, 0.0
    for i, row in enumerate(todo):
        pace = spent / planned if planned > 60 else 1.0  # this machine beside the estimates
        remaining = pace * sum(r.seconds() for r in todo[i:])
        if not isinstance(row, Committed):
            print(f"{i + 1}/{len(todo)} {row.name} (about {remaining / 60:.0f} min left)", end=" … ", flush=True)
        started = time.perf_counter()
        try:
            result = run(row, workplace)
        except MissingRun as err:
            left.append(f"{row.name}: {err}")
            if not isinstance(row, Committed):
                print("not possible yet")
            continue
        records.keep(row, result)
        seconds = time.perf_counter() - started
        spent, planned = spent + seconds, planned + row.seconds()
        accuracy = f", test accuracy {result['metrics']['accuracy']:.4f}" if "metrics" in result else ""
        print(f"{seconds:.0f} s{accuracy}", flush=True)
    return left


def loader(data: Path | None, origins: dict[str, str], quick: bool) -> Callable[[str], Dataset]:
    """A data set by name: DATA/NAME.npz, or through keras.datasets; real 16x16 digits for the toy study."""
    if quick:
        return lambda name: load("digits", image_size=QUICK_IMAGE_SIZE)
    return lambda name: load(name, data / f"{name}.npz" if data else None, origin=origins.get(name))


def print_table(rows: Sequence[Row], records: Records) -> None:
    """Every experiment, whether its record is there, and the estimated minutes on two idle cores."""
    for row in rows:
        if row.name in records.found:
            state, minutes = "done", ""
        elif isinstance(row, Committed):
            state, minutes = "missing", f"by python -m training.fit {row.model.replace('-', ' --dataset ')}"
        else:
            state, minutes = "missing", f"{row.seconds() / 60:6.1f} min"
        print(f"{row.name:<46} {state:<8} {minutes}".rstrip())
    missing = [records.rows[name] for name in records.missing(records.rows)]
    total = sum(row.seconds() for row in missing) / 60
    print(f"{len(rows)} experiments, {len(missing)} missing: about {total:.0f} minutes on two idle cores")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m study",
        description="Put the claims about the networks to the test: make the missing run records, write the study.",
    )
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and cifar10.npz (default: keras.datasets)")
    parser.add_argument("--origin", action="append", default=[], metavar="NAME=TEXT", help="where a data set is from")
    parser.add_argument("--output", type=Path, help="for study.md, study/ and runs/ (default: docs)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="published artifacts (default: models)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="the experiments, their state and estimated minutes")
    action.add_argument("--report-only", action="store_true", help="write the study from the records there are")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="make only experiments so named, e.g. 'sweep-*'")
    parser.add_argument("--quick", action="store_true", help="a toy version that shows only that it runs")
    args = parser.parse_args(argv)
    if args.quick and args.output is None:
        parser.error("--quick needs --output: its records are not those of the study")
    if wrong := [origin for origin in args.origin if "=" not in origin]:
        parser.error(f"--origin takes NAME=TEXT, got {wrong[0]}")

    signal.signal(signal.SIGTERM, _interrupt)
    output = args.output or Path("docs")
    scale = QUICK if args.quick else FULL
    rows = experiments(scale)
    records = Records(output / "runs", rows)
    if args.list:
        print_table(rows, records)
        return 0
    try:
        if not args.report_only:
            load_named = loader(args.data, dict(origin.split("=", 1) for origin in args.origin), args.quick)
            for line in make_missing(records, args.only, load_named, args.models, args.quick):
                print(f"missing: {line}")
    except DatasetError as err:
        print(f"\nerror: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: {len(records.found)} of {len(rows)} records are kept; the same command continues",
            file=sys.stderr,
        )
        return 130
    for claim in claims(scale):
        verdict = judge(claim, records)
        print(f"{claim.number:>2} {claim.title}: {verdict.word}")
    models = None if args.quick else args.models
    print(f"written: {write_report(claims(scale), records, output, models, toy=args.quick)}")
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
