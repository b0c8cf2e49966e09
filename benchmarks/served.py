"""`python -m benchmarks.served [MODEL …]`: requests a second of each model that is served, for the tables of models.

One service has all models of a folder; each is asked in turn about pictures of its own size, one a request. The medians
go into docs/served.json, which `training.cards` and `study` read; what is not measured now keeps its figures. Knows a
started server and cards, no peers (benchmarks.run) and no tables.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Load, LoadError
from benchmarks.pictures import subject
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

FILE = Path("docs/served.json")
CONNECTIONS = 32
WARM_SECONDS = 1

Row = dict[str, Any]  # as `measure` has it


def measure(models: Path, names: Sequence[str], rounds: int, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """For the latest version of each model: what tells which it is, and its median rate. Raises ServerError, LoadError,
    FileNotFoundError."""
    subjects = [subject(models, name) for name in names]
    chosen = {"SHORTCUT_MODELS": str(models.resolve()), "SHORTCUT_DEFAULT_MODEL": names[0]}
    ours = replace(CONTENDERS[OURS], environment=chosen)
    rates: dict[str, list[float]] = {name: [] for name in names}
    rows = []
    with ExitStack() as stack:
        server = stack.enter_context(Server(ours, subjects[0]))
        loads = {}
        for one in subjects:
            server.subject = one
            server.verify(one.small)
            rows.append(_described(one.artifact, one.small_title, server))
            load = Load(server.port, ours.path(one), [ours.body(picture.data) for picture in one.small])
            stack.callback(load.close)
            loads[one.name] = load
        for number in range(rounds):
            for name, load in loads.items():
                load.closed(CONNECTIONS, WARM_SECONDS)
                rates[name].append(load.closed(CONNECTIONS, seconds).rate)
                server.settle()
            latest = ", ".join(f"{name} {rate[-1]:,.0f}" for name, rate in rates.items())
            say(f"round {number + 1} of {rounds}: {latest}")
    return [row | {"requests_per_second": round(median(rates[row["model"]]), 1)} for row in rows]


def _described(artifact: Path, picture: str, server: Server) -> Row:
    card = json.loads((artifact / "card.json").read_bytes())
    recipe = card.get("recipe") or {}
    return {
        "model": card["name"],
        "version": int(artifact.name),
        "network": card["network"],
        "dataset": card["dataset"]["name"],
        "recipe": recipe.get("name", "notebook"),  # cards from before recipes had names
        "picture": picture,
        **{key: value for key, value in server.provider().items() if key != "provider_reason"},
    }


def keep(rows: Sequence[Row], file: Path) -> None:
    """Put the rows into the file, in place of those of the same network, data set and recipe."""
    known = json.loads(file.read_text()) if file.exists() else []
    kept = {_which(row): row for row in [*known, *rows]}
    file.write_text(json.dumps([kept[which] for which in sorted(kept)], indent=1) + "\n")


def _which(row: Row) -> tuple[str, str, str]:
    return row["dataset"], row["network"], row["recipe"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=FILE, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    names = args.names or sorted({path.parents[1].name for path in args.models.glob("*/*/model.onnx")})
    if not names or min(args.rounds, args.seconds) < 1:
        parser.error(f"{args.models} has no models" if not names else "--rounds and --seconds must be at least 1")
    if (busy := busy_cores()) > BUSY:
        print(f"warning: something else takes {busy:.1f} cores: these figures will be too low", file=sys.stderr)
    found = conditions()
    here = {
        "cpu": found["cpu"],
        "cpu_kind": found["cpu_kind"],
        "cores": found["cores"],
        "revision": found["revision"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    try:
        rows = measure(args.models, names, args.rounds, args.seconds, lambda text: print(text, flush=True))
    except (ServerError, LoadError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    keep([row | here for row in rows], args.output)
    for row in rows:
        rate = f"{row['requests_per_second']:,.0f} requests/s"
        print(f"{row['model']} version {row['version']}: {rate}, {row['provider']} in {row['precision']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
