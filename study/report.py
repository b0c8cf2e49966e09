"""Claims and records -> study.md and its plots. Every number and verdict comes from a record; only the frame is text.

Knows the shapes of claims and outcomes; trains nothing and decides nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from study.choice import choice
from study.claims import Claim, judge
from study.costs import section
from study.evidence import spread
from study.experiments import TIMING, Committed, PairedTiming, Row, Training
from study.figures import plot_old_metric, plot_outcomes
from study.records import Record, Records
from study.verdicts import HERE, RULES, Verdict

BUSY = 0.25  # cores used by others, from which on a timing is called disturbed

_GLOBAL_MINIMUM = """## Not a claim that this can decide: deep networks find the global minimum

The notebook also says that deep networks find the global minimum of the loss. No run of this study can show that. A
training ends at one point, and nothing about that point says how much lower the loss gets elsewhere. That would need a
lower bound, which nobody has for networks like these. A training loss near 0 would come close, since the loss cannot
go below it. But with dropout and ten epochs none of the runs gets there, and it would say little about the test images.
What the runs do show is whether different seeds end at about the same loss, which fits many minima of equal worth just
as well as one. It could be put to the test only as something weaker: that deeper networks reach a lower training
loss than shallower ones from most starts.
"""


def write_report(
    claims: Sequence[Claim], records: Records, output: Path, models: Path | None = None, toy: bool = False
) -> Path:
    """Write OUTPUT/study.md and OUTPUT/study/*.png; returns the page's path.

    `models` is the folder of the artifacts whose cards are compared too; `toy` is said at the top.
    """
    folder = output / "study"
    verdicts = [judge(claim, records) for claim in claims]
    sections = [
        _opening(records, toy),
        _summary(claims, verdicts),
        f"## How verdicts are decided\n\n{RULES}\n",
        *(_section(claim, verdict, records, folder) for claim, verdict in zip(claims, verdicts, strict=True)),
        _GLOBAL_MINIMUM,
        _old_metric(records, folder),
        section(records, models, folder, _table),
        _conditions(records),
        choice(records, models, folder),
    ]
    output.mkdir(parents=True, exist_ok=True)
    page = output / "study.md"
    partial = page.with_suffix(".partial")
    partial.write_text("\n".join(sections))
    partial.replace(page)
    return page


def _opening(records: Records, toy: bool) -> str:
    warning = (
        "**This is the toy study: a few dozen digits, whatever the data set is called below. Its numbers mean "
        "nothing.**\n\n"
    )
    there, rows = len(records.found), len(records.rows)
    return (
        f"# What holds of the notebook's claims\n\n{warning if toy else ''}"
        "The networks come from a teaching notebook that claims much and prints no numbers. Here each claim is put to "
        "an experiment, and code decides the verdict from the numbers by a stated rule. Numbers over several seeds "
        "are given as mean (lowest–highest).\n\n"
        f"Written by `python -m study --report-only` from {there} of {rows} run records "
        "(`runs/*.json` and `runs/study/*.json` beside this page). `python -m study --data DIR` makes the "
        "missing ones; `--list` says which and how long they take.\n"
    )


def _summary(claims: Sequence[Claim], verdicts: Sequence[Verdict]) -> str:
    rows = [
        (f"{claim.number}", f"[{claim.title}](#{_anchor(claim)})", f"**{verdict.word}**{_where(verdict)}")
        for claim, verdict in zip(claims, verdicts, strict=True)
    ]
    return _table(("", "claim", "verdict"), rows)


def _where(verdict: Verdict) -> str:
    """Where "here" is: the settings in which the claim holds."""
    yes = [setting for setting, outcome in verdict.settings.items() if outcome.answer is True]
    return f" ({', '.join(yes)})" if verdict.word == HERE else ""


def _section(claim: Claim, verdict: Verdict, records: Records, folder: Path) -> str:
    parts = [
        f"## {claim.number}. {claim.title}\n",
        f"**Claim.** {claim.words}\n",
        f"**Experiment.** {claim.experiment}\n",
        f"**Rule.** {claim.rule}\n",
    ]
    for setting, outcome in verdict.settings.items():
        answer = {True: "yes", False: "no", None: "unclear"}[outcome.answer]
        parts.append(f"*{setting}*: {answer}.\n\n{_table(outcome.header, outcome.rows)}")
    if any(outcome.series for outcome in verdict.settings.values()):
        name = f"claim-{claim.number:02}.png"
        plot_outcomes(verdict.settings, folder / name)
        parts.append(f"![{claim.title}]({folder.name}/{name})\n")
    parts.append(f"**Verdict: {verdict.word}.** {_sentence(verdict.why)}")
    if TIMING in claim.needs and TIMING in records.found:
        parts[-1] += f" {_timing_conditions(records[TIMING])}"
    if missing := records.missing(claim.needs):
        parts[-1] += " Missing: " + ", ".join(f"`{name}`" for name in missing) + "."
    parts.append(f"\n**What would decide it.** {claim.settle}\n")
    return "\n".join(parts)


def _old_metric(records: Records, folder: Path) -> str:
    """Binary beside categorical accuracy of the same predictions, for every full run there is."""
    runs: dict[str, list[Record]] = {}
    for row in records.rows.values():
        if row.name.startswith("full-") and row.name in records.found:
            runs.setdefault(row.name.removeprefix("full-").rpartition("-seed")[0], []).append(records[row.name])
    text = (
        "## What the old metric hid\n\n"
        "The loss is binary cross-entropy over ten outputs. For that loss the Keras of the notebook's time took "
        '"accuracy" to mean *binary* accuracy. That is the share of all ten outputs per image that are on the right '
        "side of 0.5. An answer that commits to no class at all has nine of ten right and so scores 90 %; a wrong "
        "class costs two outputs of ten, a right one none. *Categorical* accuracy is the share of images whose most "
        "probable class is the right one. Both for the same predictions:\n"
    )
    if not runs:
        return f"{text}\nNot measured: the full runs are missing.\n"
    rows = [
        (
            model,
            [run["metrics"]["accuracy"] for run in found],
            [run["binary_accuracy"] for run in found],
        )
        for model, found in runs.items()
    ]
    plot_old_metric([(m, sum(c) / len(c), sum(b) / len(b)) for m, c, b in rows], folder / "old-metric.png")
    table = _table(
        ("system", "categorical, %", "binary, %", "wrong images, %", "wrong outputs, %"),
        [
            (m, spread(c), spread(b), spread([1 - value for value in c]), spread([1 - value for value in b]))
            for m, c, b in rows
        ],
    )
    return f"{text}\n{table}\n![binary and categorical accuracy]({folder.name}/old-metric.png)\n"


def _conditions(records: Records) -> str:
    """What was run, on what and beside what."""
    made = [(row, records[row.name]) for row in records.rows.values() if row.name in records.found]
    text = "## Conditions\n\n"
    origins: dict[str, set[str]] = {}
    for _, record in made:
        if "dataset" in record:
            origins.setdefault(record["dataset"]["name"], set()).add(record["dataset"]["origin"])
    for name, found in origins.items():
        text += f"- {name}: {', '.join(sorted(found))}\n"
    hardware = {_hardware(record) for _, record in made} - {""}
    text += f"- hardware: {'; '.join(sorted(hardware)) or 'nothing was run'}\n"
    text += (
        "- `other cores` counts the cores that other processes kept busy meanwhile. Seconds of single runs are given "
        "for orientation; claims about time rest on the paired timing alone.\n\n"
    )
    rows = [
        (
            f"`{row.name}`",
            _kind(row),
            f"{sum(record['epoch_seconds']) / 60:.1f}" if "epoch_seconds" in record else "",
            f"{_speed(record):,.0f}" if _speed(record) else "",
            _other_cores(record),
        )
        for row, record in made
    ]
    return text + _table(("record", "", "training, minutes", "images/s", "other cores"), rows)


def _timing_conditions(record: Record) -> str:
    other = (record.get("load") or {}).get("other_cores")
    if other is None:
        return "How busy the machine was during the timing is not known."
    judged = "disturbed" if other > BUSY else "quiet"
    return f"(Timed on {record.get('hardware')}, {judged}: other processes kept {other:.2f} cores busy.)"


def _other_cores(record: Record) -> str:
    other = (record.get("load") or {}).get("other_cores")
    return "unknown" if other is None else f"{other:.2f}"


def _hardware(record: Record) -> str:
    return record.get("hardware") or (record.get("training") or {}).get("hardware", "")


def _speed(record: Record) -> float:
    speed = record.get("images_per_second") or (record.get("training") or {}).get("images_per_second", 0)
    return speed if isinstance(speed, int | float) else 0.0


def _kind(row: Row) -> str:
    if isinstance(row, Committed):
        return "`training.fit`"
    if isinstance(row, Training):
        return f"{row.network.blocks} blocks, {row.recipe.epochs} epochs, batch {row.recipe.batch_size}"
    return f"{row.rounds} rounds" if isinstance(row, PairedTiming) else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _anchor(claim: Claim) -> str:
    """As GitHub makes it from the heading."""
    heading = f"{claim.number}. {claim.title}".lower()
    return "".join(c for c in heading if c.isalnum() or c in " -_").replace(" ", "-")


def _sentence(text: str) -> str:
    """Each part as a sentence of its own: nobody reads five settings in one."""
    parts = text.removesuffix(".").split("; ")
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)
