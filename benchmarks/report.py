"""The samples of a run -> medians, ratios and a Markdown table.

`python -m benchmarks.report [RESULT.json …]` prints the tables of earlier runs again, of each model on each kind of
CPU the newest; without names, of all in results/. `--readme` also puts them into the README files, so that a run on one
kind of CPU leaves the figures of the others where they are, with their dates. Knows the form of a result file, not how
it was measured.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rounds import BATCH, BATCH_CONNECTIONS, SATURATION
from benchmarks.servers import EMPTY, OURS, OURS_CPU, short_name

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of results -->"
FRONT = README.parents[1] / "README.md"  # has the short table
FRONT_BEGIN, FRONT_END = "<!-- speed: python -m benchmarks.report --readme -->", "<!-- /speed -->"
FRONT_PHOTOS = "1024×768 JPEG, 32 connections"  # the cell of a model for photos that stands there
FRONT_PEERS = {  # name -> what the short table calls it
    "fastapi": "FastAPI + ONNX Runtime",
    "mosec": "mosec",
    "bentoml": "BentoML's tutorial",
}

OPEN = {  # cell -> what it is called
    "open own rate": f"open loop, each at {SATURATION:.0%} of its own best",
    "open same rate": f"open loop, all at {SATURATION:.0%} of the slowest one's best",
}
OLD_TITLES = {"large": "3000×2000 JPEG, 8 connections"}  # cells of results before 2026-11-25
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
    """Of each of our rows: what it reaches of the best bare session, whatever its batch (`of_best`: with one image a
    request; `of_best_batch`: with many), and of the best on its own provider in its own precision (`of_bare`,
    `of_bare_batch`); p99 ÷ p50 of its open loops (`tail`); the slowest round of uploads ÷ the fastest (`spread`)."""
    cells = medians(model["samples"])
    bare = {
        (row, cell.removeprefix("bare ")): figures["rate"]
        for cell, rows in cells.items()
        if cell.startswith("bare")
        for row, figures in rows.items()
    }
    by_server: dict[str, dict[str, Any]] = {}
    for name in (OURS, OURS_CPU):
        if name not in model["servers"]:
            continue
        served = model["servers"][name]
        by_server[name] = {"tail": {cell: _tail(cells[cell][name]) for cell in OPEN if cell in cells}}
        closed = max(cell[name]["rate"] for title, cell in cells.items() if title.startswith("closed"))
        if uploads := _uploads(model, name):
            by_server[name]["spread"] = round(min(uploads) / max(uploads), 3)
        own = {key: rate for key, rate in bare.items() if _is_of(key[0], served["provider"], served["precision"])}
        for word, sessions in (("best", bare), ("bare", own)):
            if sessions:
                row, size = max(sessions, key=lambda key: sessions[key])
                rate = sessions[row, size]
                by_server[name] |= {
                    word: f"{row} at batch {size}",
                    f"of_{word}": round(closed / rate, 4),
                }
                if uploads:
                    by_server[name][f"of_{word}_batch"] = round(median(uploads) / rate, 4)
    return by_server


def _uploads(model: dict[str, Any], name: str) -> list[float]:
    """The rate of each round; nothing where all that was asked for at once took longer than the measurement."""
    rates = [s["rate"] for s in model["samples"] if (s["server"], s["cell"]) == (name, "batch")]
    return rates if any(rates) else []


def _is_of(row: str, provider: str, precision: str) -> bool:
    """Whether a kind of bare session is what a server runs."""
    kind = short_name(provider)
    return row.split(",")[0] == (kind if kind == "cpu" else f"{kind} {precision}")


def _tail(figures: dict[str, float]) -> float | None:
    """p99 ÷ p50; None if nothing was answered."""
    return round(figures["p99_ms"] / figures["p50_ms"], 2) if figures["p50_ms"] else None


def errors(result: Result) -> int:
    """Answers that were not 200 or never came, in the whole run."""
    return sum(s.get("not_200", 0) + s.get("lost", 0) for m in result["models"].values() for s in m["samples"])


def markdown(result: Result) -> str:
    """The whole report of one run."""
    conditions, plan = result["conditions"], result["plan"]
    ours = [name for name in (OURS, OURS_CPU) if name in plan["contenders"]]
    lines = []
    if result["preliminary"]:
        lines += [f"**Preliminary: {'; '.join(result['preliminary'])}.**", ""]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    lines += [
        f"{result['date']}, {conditions['cpu']} ({_kind(result)}), {conditions['cores']} cores, "
        f"{conditions['system']}, Python {conditions['python']}; {versions}. "
        f"Medians of {plan['rounds']} interleaved round{'s' if plan['rounds'] > 1 else ''} of {plan['seconds']} s; "
        f"in brackets {' / '.join(ours)} ÷ peer (for latencies the inverse: above 1 is in our favour everywhere).",
    ]
    for name, model in result["models"].items():
        lines += ["", f"### {name} on {_kind(result)}", "", *_model(model)]
    return "\n".join(lines) + "\n"


def _kind(result: Result) -> str:
    return result["conditions"]["cpu_kind"]


def newest(results: Sequence[Result]) -> list[Result]:
    """Of each model on each kind of CPU the newest figures: runs, the newest of a kind first, without what is older."""
    kept, seen = [], set()
    for result in sorted(results, key=lambda r: r["date"], reverse=True):
        keys = {name: (_kind(result), name) for name in result["models"]}
        models = {name: model for name, model in result["models"].items() if keys[name] not in seen}
        seen.update(keys.values())
        if models:
            kept.append({**result, "models": models})
    return sorted(kept, key=_kind)


def short_table(results: Sequence[Result]) -> str:
    """The rates at 32 connections of each model and kind of CPU, as README.md has them: of a model for photos with
    photos, of another with pictures of its own size."""
    rows = []
    for result in newest(results):
        where = f"{result['conditions']['cpu']}, {_kind(result)}, {result['date'].split()[0]}"
        for name, model in result["models"].items():
            small, cells = model.get("small", "PNG") + ", ", medians(model["samples"])
            for title, cell in _titled(model, cells):
                if title == (FRONT_PHOTOS if FRONT_PHOTOS in cells else f"{small}32 connections"):
                    rates = [cell.get(server, {}).get("rate") for server in (OURS, *FRONT_PEERS)]
                    shown = ["–" if rate is None else _figure(rate) for rate in rates]
                    rows.append(_row([f"`{name}`, {title}", where, *shown]))
    titles = ["requests/s", "CPU", "Shortcut", *FRONT_PEERS.values()]
    return "\n".join([_row(titles), _row(["---"] * 2 + ["---:"] * (len(titles) - 2)), *rows])


def _titled(model: dict[str, Any], cells: Cells) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """The closed loops with one image a request, by their titles: those with small pictures first."""
    small = sorted(int(cell.split()[1]) for cell in cells if cell.startswith("closed"))
    kind = model.get("small", "PNG")
    titled = [(f"{kind}, {n} connection{'s' if n > 1 else ''}", cells[f"closed {n}"]) for n in small]
    return titled + [(OLD_TITLES.get(c, c), cells[c]) for c in cells if c in OLD_TITLES or c.endswith(" connections")]


def _model(model: dict[str, Any]) -> list[str]:
    cells = medians(model["samples"])
    servers = [name for name in model["servers"] if name != EMPTY]
    lines = [_row(["", *servers]), _row(["---"] + ["---:"] * len(servers))]
    for title, cell in _titled(model, cells):
        lines += _rates(title + ", images/s", cell, servers)
        lines += _latencies(title, cell, servers)
        if "JPEG" in title:
            lines.append(_tails(title, cell, servers))
    for name, title in OPEN.items():
        if name in cells:
            rates = [_figure(cells[name][s]["rate"]) if s in cells[name] else "–" for s in servers]
            lines.append(_row([title + ", requests/s", *rates]))
            lines += _latencies(title, cells[name], servers)
            lines.append(_tails(title, cells[name], servers))
    if "batch" in cells:
        most = max(int(cell.split()[1]) for cell in cells if cell.startswith("closed"))
        # Peers take one image a request: a client with many sends them at once.
        row = {**cells[f"closed {most}"], **cells["batch"]}
        title = f"{BATCH} images a request, {BATCH_CONNECTIONS} connections (peers: one, {most} connections), images/s"
        lines += _rates(title, row, servers)
    described = model["servers"]
    lines.append(_row(["ready after, s", *(f"{described[s]['ready_seconds']:.1f}" for s in servers)]))
    lines.append(
        _row(["largest process, MiB", *(f"{described[s].get('largest_process_mib', 0):.0f}" for s in servers)])
    )
    lines.append(_row(["idle, % of a core", *(f"{100 * described[s]['idle_cpu']:.0f}" for s in servers)]))
    return [*lines, "", *_beside_bare(model, cells), "", _other(model, cells, servers)]


def _beside_bare(model: dict[str, Any], cells: Cells) -> list[str]:
    batches = sorted(int(cell.split()[1]) for cell in cells if cell.startswith("bare"))
    rows = [
        f"{row} " + " / ".join(f"{cells[f'bare {batch}'][row]['rate']:,.0f}" for batch in batches)
        for row in cells[f"bare {batches[0]}"]
    ]
    lines = [
        f"Bare runtimes, one process a core with one thread each, images/s at batch {' / '.join(map(str, batches))}: "
        f"{', '.join(rows)}."
    ]
    lines += [f"No {row}: {why}." for row, why in model["bare_left_out"].items()]
    lines.append("")
    for name, ratio in ratios(model).items():
        served = model["servers"][name]
        sentence = f"- {name} ran on {served['provider']} in {served['precision']} ({served['provider_reason']})"
        for word, what in (("best", "the best of all"), ("bare", "the best of its kind")):
            if word in ratio and (word == "best" or ratio["bare"] != ratio["best"]):
                sentence += (
                    f". Of bare {ratio[word]}, {what}, it reaches {ratio[f'of_{word}']:.2f} with one image a request"
                )
                if f"of_{word}_batch" in ratio:
                    sentence += f" and {ratio[f'of_{word}_batch']:.2f} with {BATCH}"
        lines.append(sentence + ".")
    return lines


def _other(model: dict[str, Any], cells: Cells, servers: list[str]) -> str:
    sentences, described = [], model["servers"]
    if OURS in servers:
        if uploads := _uploads(model, OURS):
            sentences.append(
                f"{OURS}'s rounds of uploads: {', '.join(_figure(rate) for rate in uploads)} images/s, the slowest "
                f"{min(uploads) / max(uploads):.2f} of the fastest."
            )
        more = described[OURS]["ready_seconds"] - described[EMPTY]["ready_seconds"]
        sentences.append(
            f"An empty BentoML service is ready after {described[EMPTY]['ready_seconds']:.1f} s, {OURS} with all its "
            f"models {abs(more):.1f} s {'later' if more >= 0 else 'sooner'}."
        )
    late = [(cells[cell][s]["late_ms"], s) for cell in OPEN for s in servers if s in cells.get(cell, {})]
    if late:
        sentences.append(
            f"The open-loop generator noticed 99 % of its requests within {max(late)[0]:.1f} ms of due "
            f"({max(late)[1]}, the worst)."
        )
    failed = {s: sum(int(c[s]["errors"]) for c in cells.values() if s in c) for s in servers}
    wrong = ", ".join(f"{s} {n}" for s, n in failed.items() if n)
    sentences.append(f"Answers that were not 200 or never came: {wrong or 'none'}.")
    sentences += [f"Left out: {name} ({why})." for name, why in model.get("left_out", {}).items()]
    sentences += [
        f"After the last round {name} was not as before ({why})." for name, why in model.get("problems", {}).items()
    ]
    return " ".join(sentences)


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


def _tails(title: str, cell: dict[str, dict[str, float]], servers: list[str]) -> str:
    tails = [_tail(cell[server]) if server in cell else None for server in servers]
    return _row([title + ", p99 ÷ p50", *("–" if tail is None else f"{tail:.1f}" for tail in tails)])


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


def put(text: str, into: Path, begin: str, end: str) -> None:
    before, rest = into.read_text().split(begin)
    into.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.split(end)[1]}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULT", help="default: all in benchmarks/results")
    parser.add_argument("--readme", action="store_true", help="also put the tables into both README.md")
    args = parser.parse_args(argv)
    results = []
    for path in args.results or sorted(RESULTS.glob("[0-9]*.json")):
        try:
            results.append(json.loads(path.read_bytes()))
            markdown(results[-1])
        except (OSError, ValueError, KeyError) as err:
            print(f"error: {path}: no result of a run ({err})", file=sys.stderr)
            return 1
    report = "\n".join(markdown(result) for result in newest(results))
    print(report)
    if args.readme:
        put(report, README, BEGIN, END)
        put(short_table(results) + "\n", FRONT, FRONT_BEGIN, FRONT_END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
