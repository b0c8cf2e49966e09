"""The samples of a run -> medians, ratios and a Markdown table.

`python -m benchmarks.report RESULT.json` prints the table of an earlier run again; `--readme` also puts it into
README.md. Knows the form of a result file, not how it was measured.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rounds import BARE_BATCHES, BATCH, BATCH_CONNECTIONS, LARGE_CONNECTIONS, SATURATION
from benchmarks.servers import EMPTY, OURS

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of results -->"

FIGURES = ("rate", "p50_ms", "p99_ms", "late_ms")
Result = dict[str, Any]
Cells = dict[str, dict[str, dict[str, float]]]  # cell -> server -> figure -> median


def medians(samples: Sequence[dict[str, Any]]) -> Cells:
    """Over the rounds, for every server and cell; errors are summed."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for sample in samples:
        grouped.setdefault(sample["cell"], {}).setdefault(sample["server"], []).append(sample)
    return {cell: {name: _median(group) for name, group in servers.items()} for cell, servers in grouped.items()}


def _median(group: Sequence[dict[str, Any]]) -> dict[str, float]:
    figures = {key: median(s[key] for s in group) for key in FIGURES if key in group[0]}
    return {**figures, "errors": sum(s.get("not_200", 0) + s.get("lost", 0) for s in group)}


def errors(result: Result) -> int:
    """Answers that were not 200 or never came, in the whole run."""
    return sum(s.get("not_200", 0) + s.get("lost", 0) for m in result["models"].values() for s in m["samples"])


def markdown(result: Result) -> str:
    """The whole report."""
    conditions, plan = result["conditions"], result["plan"]
    lines = []
    if result["preliminary"]:
        lines += [f"**Preliminary: {'; '.join(result['preliminary'])}.**", ""]
    lines += [
        f"{result['date']}, {conditions['cpu']}, {conditions['cores']} cores, {conditions['system']}, "
        f"Python {conditions['python']}; {', '.join(f'{k} {v}' for k, v in conditions['versions'].items())}. "
        f"Medians of {plan['rounds']} interleaved round{'s' if plan['rounds'] > 1 else ''} of {plan['seconds']} s; "
        f"in brackets {OURS} ÷ peer (for latencies peer ÷ {OURS}: above 1 is in our favour everywhere).",
    ]
    for name, model in result["models"].items():
        lines += ["", f"### {name}", "", *_model(model, plan)]
    return "\n".join(lines) + "\n"


def _model(model: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    cells = medians(model["samples"])
    servers = [name for name in model["servers"] if name != EMPTY]
    lines = [_row(["", *servers]), _row(["---"] + ["---:"] * len(servers))]
    for connections in plan["connections"]:
        title = f"{connections} connection{'s' if connections > 1 else ''}"
        lines += _rates(title + ", images/s", cells[f"closed {connections}"], servers)
        lines += _latencies(title, cells[f"closed {connections}"], servers)
    lines += _latencies(f"open loop at {SATURATION:.0%} of each one's best", cells.get("open", {}), servers)
    if "large" in cells:
        title = f"3000×2000 JPEG, {LARGE_CONNECTIONS} connections"
        lines += _rates(title + ", images/s", cells["large"], servers) + _latencies(title, cells["large"], servers)
    if "batch" in cells:
        most = max(plan["connections"])
        # Peers take one image a request: a client with many sends them at once.
        row = {**cells[f"closed {most}"], **cells["batch"]}
        title = f"{BATCH} images a request, {BATCH_CONNECTIONS} connections (peers: one, {most} connections), images/s"
        lines += _rates(title, row, servers)
    described = model["servers"]
    lines.append(_row(["ready after, s", *(f"{described[s]['ready_seconds']:.1f}" for s in servers)]))
    lines.append(_row(["largest process, MiB", *(f"{described[s]['largest_process_mib']:.0f}" for s in servers)]))
    lines.append(_row(["idle, % of a core", *(f"{100 * described[s]['idle_cpu']:.0f}" for s in servers)]))
    lines += ["", _beside_bare(cells, plan), _other(cells, described, servers)]
    return lines


def _beside_bare(cells: Cells, plan: dict[str, Any]) -> str:
    bare = {batch: cells[f"bare {batch}"]["bare"]["rate"] for batch in BARE_BATCHES}
    figures = ", ".join(f"batch {batch}: {rate:,.0f} images/s" for batch, rate in bare.items())
    best = max(
        (cells[c][OURS]["rate"] for c in cells if c == "batch" or c.startswith("closed") if OURS in cells[c]), default=0
    )
    closed = max((cells[f"closed {c}"].get(OURS, {}).get("rate", 0) for c in plan["connections"]), default=0)
    return (
        f"Bare ONNX Runtime on the CPU, one process a core, one thread each: {figures}. Of its batch 32, {OURS} "
        f"reaches {closed / bare[32]:.2f} with one image a request and {best / bare[32]:.2f} at its best."
    )


def _other(cells: Cells, described: dict[str, Any], servers: list[str]) -> str:
    said = []
    if OURS in servers:
        more = described[OURS]["ready_seconds"] - described[EMPTY]["ready_seconds"]
        said.append(
            f"An empty BentoML service is ready after {described[EMPTY]['ready_seconds']:.1f} s, {OURS} with all its "
            f"models {abs(more):.1f} s {'later' if more >= 0 else 'sooner'}."
        )
    late = {s: cells["open"][s]["late_ms"] for s in servers if s in cells.get("open", {})}
    said.append(
        f"The open-loop generator sent 99 % of its requests within {max(late.values(), default=0):.1f} ms of due."
    )
    failed = {s: sum(int(c[s]["errors"]) for c in cells.values() if s in c) for s in servers}
    wrong = ", ".join(f"{s} {n}" for s, n in failed.items() if n)
    said.append(f"Answers that were not 200 or never came: {wrong or 'none'}.")
    return " ".join(said)


def _rates(title: str, cell: dict[str, dict[str, float]], servers: list[str]) -> list[str]:
    ours = cell.get(OURS, {}).get("rate")
    texts = []
    for server in servers:
        rate = cell.get(server, {}).get("rate")
        text = "–" if rate is None else _figure(rate)
        if rate and ours and server != OURS:
            text += f" ({_times(ours / rate)})"
        texts.append(text)
    return [_row([title, *texts])]


def _latencies(title: str, cell: dict[str, dict[str, float]], servers: list[str]) -> list[str]:
    """p50 / p99, and beside a peer how many times ours its p99 is."""
    ours = cell.get(OURS, {}).get("p99_ms")
    texts = []
    for server in servers:
        figures = cell.get(server)
        if figures is None or not figures["p99_ms"]:  # nothing was answered in time
            texts.append("–")
            continue
        text = f"{_figure(figures['p50_ms'])} / {_figure(figures['p99_ms'])}"
        if ours and server != OURS:
            text += f" ({_times(figures['p99_ms'] / ours)})"
        texts.append(text)
    return [_row([title + ", p50 / p99 ms", *texts])]


def _figure(value: float) -> str:
    """Three digits, more where they stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.2g}×"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def put_into_readme(report: str) -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{report}\n{END}{rest.split(END)[1]}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("result", type=Path, help="benchmarks/results/<date>.json")
    parser.add_argument("--readme", action="store_true", help="also put the table into benchmarks/README.md")
    args = parser.parse_args(argv)
    try:
        report = markdown(json.loads(args.result.read_bytes()))
    except (OSError, ValueError, KeyError) as err:
        print(f"error: {args.result}: no result of a run ({err})", file=sys.stderr)
        return 1
    print(report)
    if args.readme:
        put_into_readme(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
