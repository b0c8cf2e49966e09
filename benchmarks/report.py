"""The samples of a run -> medians, ratios and a Markdown table.

`python -m benchmarks.report RESULT.json …` prints the tables of earlier runs again; `--readme` also puts them into
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
from benchmarks.servers import EMPTY, OURS, OURS_CPU, short_name

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of results -->"

OPEN = {  # cell -> what it is called
    "open own rate": f"open loop, each at {SATURATION:.0%} of its own best",
    "open same rate": f"open loop, all at {SATURATION:.0%} of the slowest one's best",
}
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


def ratios(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each of our rows: what it reaches of the best bare session on its provider at the largest batch, with one
    image a request (`of_bare`) and with many (`of_bare_batch`); p99 ÷ p50 of its open loops (`tail`)."""
    cells = medians(model["samples"])
    bare = {row: figures["rate"] for row, figures in cells[f"bare {max(BARE_BATCHES)}"].items()}
    found: dict[str, dict[str, Any]] = {}
    for name in (OURS, OURS_CPU):
        if name not in model["servers"]:
            continue
        provider = short_name(model["servers"][name]["provider"])
        same = {row: rate for row, rate in bare.items() if row.split()[0] == provider}
        found[name] = {"tail": {cell: _tail(cells[cell][name]) for cell in OPEN}}
        if same:
            row = max(same, key=lambda row: same[row])
            closed = max(cell[name]["rate"] for title, cell in cells.items() if title.startswith("closed"))
            found[name] |= {
                "bare": row,
                "of_bare": round(closed / same[row], 4),
                "of_bare_batch": round(cells["batch"][name]["rate"] / same[row], 4),
            }
    return found


def _tail(figures: dict[str, float]) -> float | None:
    """p99 ÷ p50; None if nothing was answered."""
    return round(figures["p99_ms"] / figures["p50_ms"], 2) if figures["p50_ms"] else None


def errors(result: Result) -> int:
    """Answers that were not 200 or never came, in the whole run."""
    return sum(s.get("not_200", 0) + s.get("lost", 0) for m in result["models"].values() for s in m["samples"])


def markdown(result: Result) -> str:
    """The whole report."""
    conditions, plan = result["conditions"], result["plan"]
    ours = [name for name in (OURS, OURS_CPU) if name in plan["contenders"]]
    lines = []
    if result["preliminary"]:
        lines += [f"**Preliminary: {'; '.join(result['preliminary'])}.**", ""]
    lines += [
        f"{result['date']}, {conditions['cpu']}, {conditions['cores']} cores, {conditions['system']}, "
        f"Python {conditions['python']}; {', '.join(f'{k} {v}' for k, v in conditions['versions'].items())}. "
        f"Medians of {plan['rounds']} interleaved round{'s' if plan['rounds'] > 1 else ''} of {plan['seconds']} s; "
        f"in brackets {' / '.join(ours)} ÷ peer (for latencies the inverse: above 1 is in our favour everywhere).",
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
    for cell, title in OPEN.items():
        rates = [_figure(cells[cell][s]["rate"]) for s in servers]
        tails = [_tail(cells[cell][s]) for s in servers]
        lines.append(_row([title + ", requests/s", *rates]))
        lines += _latencies(title, cells[cell], servers)
        lines.append(_row([title + ", p99 ÷ p50", *("–" if tail is None else f"{tail:.1f}" for tail in tails)]))
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
    return [*lines, "", *_beside_bare(model, cells), "", _other(cells, described, servers)]


def _beside_bare(model: dict[str, Any], cells: Cells) -> list[str]:
    rows = [
        f"{row} " + " / ".join(f"{cells[f'bare {batch}'][row]['rate']:,.0f}" for batch in BARE_BATCHES)
        for row in cells[f"bare {BARE_BATCHES[0]}"]
    ]
    batches = " / ".join(map(str, BARE_BATCHES))
    lines = [
        f"Bare ONNX Runtime, one process a core with one thread each, images/s at batch {batches}: {', '.join(rows)}."
    ]
    lines += [f"No {row}: {why}." for row, why in model["bare_left_out"].items()]
    lines.append("")
    for name, ratio in ratios(model).items():
        served = model["servers"][name]
        said = f"- {name} ran on {served['provider']} in {served['precision']} ({served['provider_reason']})"
        if "bare" in ratio:
            said += (
                f". Of bare {ratio['bare']} at batch {max(BARE_BATCHES)}, the best session on it, it reaches "
                f"{ratio['of_bare']:.2f} with one image a request and {ratio['of_bare_batch']:.2f} with {BATCH}"
            )
        lines.append(said + ".")
    return lines


def _other(cells: Cells, described: dict[str, Any], servers: list[str]) -> str:
    said = []
    if OURS in servers:
        more = described[OURS]["ready_seconds"] - described[EMPTY]["ready_seconds"]
        said.append(
            f"An empty BentoML service is ready after {described[EMPTY]['ready_seconds']:.1f} s, {OURS} with all its "
            f"models {abs(more):.1f} s {'later' if more >= 0 else 'sooner'}."
        )
    late, which = max((cells[cell][s]["late_ms"], s) for cell in OPEN for s in servers)
    said.append(
        f"The open-loop generator noticed 99 % of its requests within {late:.1f} ms of due ({which}, the worst)."
    )
    failed = {s: sum(int(c[s]["errors"]) for c in cells.values() if s in c) for s in servers}
    wrong = ", ".join(f"{s} {n}" for s, n in failed.items() if n)
    said.append(f"Answers that were not 200 or never came: {wrong or 'none'}.")
    return " ".join(said)


def _rates(title: str, cell: dict[str, dict[str, float]], servers: list[str]) -> list[str]:
    """Images a second, and beside a peer how many times its rate ours are."""
    texts = []
    for server in servers:
        rate = cell.get(server, {}).get("rate")
        text = "–" if rate is None else _figure(rate)
        if rate and server not in (OURS, OURS_CPU):
            text += _bracket([ours["rate"] / rate for ours in _ours(cell)])
        texts.append(text)
    return [_row([title, *texts])]


def _latencies(title: str, cell: dict[str, dict[str, float]], servers: list[str]) -> list[str]:
    """p50 / p99, and beside a peer how many times ours its p99 is."""
    texts = []
    for server in servers:
        figures = cell.get(server)
        if figures is None or not figures["p99_ms"]:  # nothing was answered in time
            texts.append("–")
            continue
        text = f"{_figure(figures['p50_ms'])} / {_figure(figures['p99_ms'])}"
        if server not in (OURS, OURS_CPU):
            text += _bracket([figures["p99_ms"] / ours["p99_ms"] for ours in _ours(cell)])
        texts.append(text)
    return [_row([title + ", p50 / p99 ms", *texts])]


def _ours(cell: dict[str, dict[str, float]]) -> list[dict[str, float]]:
    """The figures of our rows that were answered at all."""
    return [cell[name] for name in (OURS, OURS_CPU) if cell.get(name, {}).get("p99_ms")]


def _bracket(ratios: Sequence[float]) -> str:
    return f" ({' / '.join(_times(ratio) for ratio in ratios)})" if ratios else ""


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
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="benchmarks/results/<date>.json")
    parser.add_argument("--readme", action="store_true", help="also put the table into benchmarks/README.md")
    args = parser.parse_args(argv)
    reports = []
    for result in args.results:
        try:
            reports.append(markdown(json.loads(result.read_bytes())))
        except (OSError, ValueError, KeyError) as err:
            print(f"error: {result}: no result of a run ({err})", file=sys.stderr)
            return 1
    report = "\n".join(reports)
    print(report)
    if args.readme:
        put_into_readme(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
