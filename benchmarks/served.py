"""`python -m benchmarks.served [MODEL …]`: the throughput of each model version, for the tables of models.

One service has all versions of all models of a folder; each is asked in turn about pictures of its own size, one a
request. The medians go into docs/served.json, which `training.cards` and `study` read; what is not measured now keeps
its figures. Knows a started server and cards, no peers (benchmarks.run) and no tables.
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
from urllib.parse import quote

from benchmarks.load import Load, LoadError
from benchmarks.pictures import Subject, subject, versions_of
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

FILE = Path("docs/served.json")
CONNECTIONS = 32
WARM_SECONDS = 1

Row = dict[str, Any]  # as `measure` has it


def measure(models: Path, names: Sequence[str], rounds: int, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """For each version of each model: what tells which it is, and its median rate. Raises ServerError, LoadError,
    FileNotFoundError."""
    subjects = [subject(models, name, version) for name in names for version in versions_of(models / name)]
    chosen = {"SHORTCUT_MODELS": str(models.resolve()), "SHORTCUT_DEFAULT_MODEL": names[0], "SHORTCUT_VERSIONS": "all"}
    ours = replace(CONTENDERS[OURS], environment=chosen, path=_path)
    rates: dict[Path, list[float]] = {one.artifact: [] for one in subjects}
    rows = {}
    with ExitStack() as stack:
        server = stack.enter_context(Server(ours, subjects[0]))
        loads = {}
        for one in subjects:
            server.subject = one
            server.verify(one.small)
            rows[one.artifact] = _described(one, server)
            loads[one.artifact] = Load(server.port, _path(one), [ours.body(picture.data) for picture in one.small])
            stack.callback(loads[one.artifact].close)
        for number in range(rounds):
            for artifact, load in loads.items():
                load.closed(CONNECTIONS, WARM_SECONDS)
                rates[artifact].append(load.closed(CONNECTIONS, seconds).all_answered(str(artifact)).rate)
                server.settle()
            latest = (f"{artifact.parent.name} {artifact.name}: {rate[-1]:,.0f}" for artifact, rate in rates.items())
            say(f"round {number + 1} of {rounds}: {', '.join(latest)}")
    return [row | {"requests_per_second": round(median(rates[artifact]), 1)} for artifact, row in rows.items()]


def _path(one: Subject) -> str:
    return f"/classify?model={quote(one.name)}&version={one.artifact.name}&top_k=1"


def _described(one: Subject, server: Server) -> Row:
    """Raises ServerError where the service does not serve this version."""
    card = json.loads((one.artifact / "card.json").read_bytes())
    version = int(one.artifact.name)
    listed = server.get(f"/models/{quote(one.name)}")["versions"]
    served = next((each for each in listed if each["version"] == version), None)
    if served is None:
        raise ServerError(f"{one.artifact} is not served: GET /models says why")
    return {
        "model": one.name,
        "version": version,
        "network": card["network"],
        "dataset": card["dataset"]["name"],
        "recipe": _recipe(card),
        "picture": one.small_title,
        "provider": served["provider"],
        "precision": served["precision"],
    }


def _recipe(card: dict[str, Any]) -> str:
    """Its name, "" where the model was trained elsewhere."""
    recipe = card.get("recipe")
    return "" if recipe is None else str(recipe.get("name", "notebook"))  # cards from before recipes had names


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
    machine = conditions()
    here = {
        "cpu": machine["cpu"],
        "cpu_kind": machine["cpu_kind"],
        "cores": machine["cores"],
        "revision": machine["revision"],
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
