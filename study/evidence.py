"""Records -> what one setting says about one claim: the answer, its numbers and what to draw.

Each function reads only the records it is given names for; the rules it applies are those of `verdicts`. Nothing here
trains, and nothing knows how a report looks.
"""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from study.experiments import TIMING, Timed
from study.records import Record, Records
from study.verdicts import (
    Answer,
    Outcome,
    Series,
    all_agree,
    clearly_above,
    one_sign,
    quartiles,
    settled_epoch,
    unsteadiness,
    within,
)

Names = Sequence[str]

VANISHED = 0.1  # of the gradient at the last block's output: less of it than this at the first block's has vanished
HARMLESS, RUINOUS = 0.1, 0.5  # shares of the accuracy above chance that dropping a block costs
SAME_ACCURACY = 0.005


def better(records: Records, above: tuple[str, Names], below: tuple[str, Names]) -> Outcome:
    """Whether the first group's test accuracy is above the second's."""
    groups = {label: records.get_all(names) for label, names in (above, below)}
    a, b = ([_accuracy(record) for record in group] for group in groups.values())
    tested = records[above[1][0]]["dataset"]["test"]
    return Outcome(
        clearly_above(a, b, tested),
        f"{above[0]} {spread(a)}, {below[0]} {spread(b)}",
        ("network", "test accuracy, %", "seeds", "parameters"),
        tuple(
            (label, spread([_accuracy(r) for r in group]), str(len(group)), f"{group[0]['parameters']:,}")
            for label, group in groups.items()
        ),
        tuple(_validation(label, group) for label, group in groups.items()),
        "epoch",
        "validation accuracy",
    )


def deeper_is_better(records: Records, depths: dict[int, Names], shallow: int, deep: int) -> Outcome:
    """Whether the deep group's test accuracy is above the shallow one's, and the distance grows with the epochs."""
    groups = {blocks: records.get_all(names) for blocks, names in depths.items()}
    accuracies = {blocks: [_accuracy(r) for r in group] for blocks, group in groups.items()}
    first = max(_settled(group[0]) for group in (groups[shallow], groups[deep]))
    growth = []
    for i in range(max(len(groups[shallow]), len(groups[deep]))):
        gap = [
            d - s
            for d, s in zip(
                _curve(groups[deep][i % len(groups[deep])])[first - 1 :],
                _curve(groups[shallow][i % len(groups[shallow])])[first - 1 :],
                strict=True,
            )
        ]
        growth.append(statistics.linear_regression(range(len(gap)), gap).slope if len(gap) > 1 else 0.0)
    above = clearly_above(accuracies[deep], accuracies[shallow], groups[deep][0]["dataset"]["test"])
    grows = one_sign(growth)
    return Outcome(
        all_agree([above, grows]),
        f"{deep} blocks {spread(accuracies[deep])}, {shallow} blocks {spread(accuracies[shallow])} ({_word(above)}); "
        f"the gap changes by {spread(growth)} points an epoch from epoch {first} on ({_word(grows)})",
        ("blocks", "test accuracy, %", "last epoch's training accuracy, %", "seconds per epoch"),
        tuple(
            (
                str(blocks),
                spread(accuracies[blocks]),
                spread([r["history"]["categorical_accuracy"][-1] for r in group]),
                f"{statistics.median(s for r in group for s in r['epoch_seconds']):.0f}",
            )
            for blocks, group in groups.items()
        ),
        tuple(_validation(f"{blocks} blocks", group) for blocks, group in groups.items()),
        "epoch",
        "validation accuracy",
    )


def time_ratio(records: Records, above: Timed, below: Timed, limits: tuple[float, float]) -> Outcome:
    """Whether training on an image with `above` takes `limits` times as long as with `below`."""
    record = records[TIMING]
    ratios = _ratios(record, above, below)
    low, middle, high = quartiles(ratios)
    return Outcome(
        within(ratios, limits),
        f"{middle:.2f} times the time per image (quartiles {low:.2f}–{high:.2f})",
        ("network", "images/s (median)", "relative time per image"),
        tuple(
            (timed.label, f"{record['images_per_second'][timed.label]:,.0f}", share)
            for timed, share in ((below, "1"), (above, f"{middle:.2f} ({low:.2f}–{high:.2f})"))
        ),
        (Series("time per image", ("1 = " + below.label, above.label), [(1.0, ratio) for ratio in ratios]),),
        "",
        "relative time per image",
    )


def sooner(
    records: Records, fast: tuple[str, Names, Timed], slow: tuple[str, Names, Timed], same_accuracy: bool
) -> Outcome:
    """Whether `fast` reaches a goal in validation accuracy in less time than `slow`.

    Time is counted in epochs of `slow`: epochs until the goal is reached, times the paired ratio of step times. The
    goal is the lowest last accuracy over the seeds of the group that ends higher, so each of its runs reaches it. With
    `same_accuracy` it is that of `slow`, and the final test accuracy must be no more than half a point lower.
    """
    ratio = statistics.median(_ratios(records[TIMING], fast[2], slow[2]))
    groups = {label: records.get_all(names) for label, names, _ in (fast, slow)}
    curves = {label: [_curve(r) for r in group] for label, group in groups.items()}
    higher = max(curves, key=lambda label: statistics.fmean(curve[-1] for curve in curves[label]))
    goal = min(curve[-1] for curve in curves[slow[0] if same_accuracy else higher])
    reached = {label: [_first(curve, goal) for curve in found] for label, found in curves.items()}
    times = {fast[0]: [ratio * epochs for epochs in reached[fast[0]]], slow[0]: [1.0 * e for e in reached[slow[0]]]}
    answers = [_separated(times[slow[0]], times[fast[0]])]
    tests = {label: [_accuracy(r) for r in group] for label, group in groups.items()}
    if same_accuracy:
        loss = statistics.fmean(tests[slow[0]]) - statistics.fmean(tests[fast[0]])
        answers.append(loss <= SAME_ACCURACY)
    return Outcome(
        all_agree(answers),
        f"{100 * goal:.1f} % validation accuracy after {mean_range(times[fast[0]])} against "
        f"{mean_range(times[slow[0]])} epochs, counted in the time of one epoch {slow[0]}; a step takes "
        f"{ratio:.2f} times as long; test accuracy {spread(tests[fast[0]])} and {spread(tests[slow[0]])}",
        ("network", "test accuracy, %", f"epochs to {100 * goal:.1f} %", "relative time"),
        tuple(
            (label, spread(tests[label]), _epochs(reached[label], curves[label]), mean_range(times[label]))
            for label in groups
        ),
        tuple(_validation(label, group) for label, group in groups.items()),
        "epoch",
        "validation accuracy",
    )


def vanishing(gradients: dict[str, list[dict[str, list[float]]]], with_shortcuts: str, without: str) -> Outcome:
    """Whether the gradient survives to the first block's output with shortcuts and vanishes without.

    The quantity is Glorot & Bengio's back-propagated gradient. Kernel gradients do not show it: they multiply it by
    the layer's input, which shrinks the other way (their section 4.2 and figure 7 against figure 8).
    """
    shares = {label: [norms["output"][0] / norms["output"][-1] for norms in runs] for label, runs in gradients.items()}
    survives = one_sign([share - VANISHED for share in shares[with_shortcuts]])
    vanishes = one_sign([VANISHED - share for share in shares[without]])
    return Outcome(
        all_agree([survives, vanishes]),
        f"the gradient at the first block's output is {_scientific(shares[with_shortcuts])} times that at the last "
        f"one's with shortcuts, {_scientific(shares[without])} times without",
        ("network", "outputs, first / last block", "kernels, first / last block", "kernel, first block"),
        tuple(
            (
                label,
                _scientific(shares[label]),
                _scientific([norms["kernel"][0] / norms["kernel"][-1] for norms in runs]),
                _scientific([norms["kernel"][0] for norms in runs]),
            )
            for label, runs in gradients.items()
        ),
        tuple(
            Series(label, range(1, len(runs[0]["output"]) + 1), [norms["output"] for norms in runs])
            for label, runs in gradients.items()
        ),
        "block",
        "gradient norm at the block's output",
        logarithmic=True,
    )


def trained_gradients(records: Records, groups: dict[str, Names]) -> dict[str, list[dict[str, list[float]]]]:
    return {label: [record["gradients"] for record in records.get_all(names)] for label, names in groups.items()}


def expendable_blocks(records: Records, residual: Names, plain: Names, chance: float) -> Outcome:
    """Whether dropping any one block hardly hurts the residual network, and ruins the plain one."""
    runs = {
        label: [record["drops"] for record in records.get_all(names)]
        for label, names in (("with shortcuts", residual), ("without shortcuts", plain))
    }
    costs = {label: [_cost_of_a_block(drops, chance) for drops in found] for label, found in runs.items()}
    answers: list[Answer] = []
    for label, limit, sign in (("with shortcuts", HARMLESS, -1), ("without shortcuts", RUINOUS, 1)):
        known = [cost for cost in costs[label] if cost is not None]
        answers.append(one_sign([sign * (cost - limit) for cost in known]) if known == costs[label] else None)
    return Outcome(
        all_agree(answers),
        "share of the accuracy above chance that is lost with the median block: "
        + ", ".join(f"{_shares(found)} {label}" for label, found in costs.items()),
        ("network", "accuracy, %", "median without one block, %", "worst block, %", "share lost (median)"),
        tuple(
            (
                label,
                spread([drops["accuracy"] for drops in found]),
                spread([statistics.median(drops["dropped"]) for drops in found]),
                spread([min(drops["dropped"]) for drops in found]),
                _shares(costs[label]),
            )
            for label, found in runs.items()
        ),
        tuple(
            Series(label, range(1, len(found[0]["dropped"]) + 1), [drops["dropped"] for drops in found])
            for label, found in runs.items()
        ),
        "dropped block",
        "test accuracy",
    )


def stable(records: Records, deep: tuple[str, Names], shallow: tuple[str, Names], others: dict[str, Names]) -> Outcome:
    """Whether the deep network keeps a larger share of its accuracy on shifted images."""
    groups = {label: [r["shifts"] for r in records.get_all(names)] for label, names in (deep, shallow)}
    groups |= {label: [r["shifts"] for r in records.get_all(names)] for label, names in others.items()}
    kept = {
        label: [statistics.fmean(run["shifted"].values()) / max(run["accuracy"], 1e-9) for run in runs]
        for label, runs in groups.items()
    }
    kinds = list(groups[deep[0]][0]["shifted"])
    return Outcome(
        clearly_above(kept[deep[0]], kept[shallow[0]], groups[deep[0]][0]["images"]),
        f"{deep[0]} keeps {spread(kept[deep[0]])} % of its accuracy, {shallow[0]} {spread(kept[shallow[0]])} %",
        ("network", "as they are, %", "shifted (mean), %", "share kept, %", "hardest shift, %"),
        tuple(
            (
                label,
                spread([run["accuracy"] for run in runs]),
                spread([statistics.fmean(run["shifted"].values()) for run in runs]),
                spread(kept[label]),
                spread([min(run["shifted"].values()) for run in runs]),
            )
            for label, runs in groups.items()
        ),
        tuple(
            Series(label, ["as is", *kinds], [[run["accuracy"], *run["shifted"].values()] for run in runs])
            for label, runs in groups.items()
        ),
        "",
        "test accuracy",
    )


def steadier(records: Records, conv: tuple[str, Names], dense: tuple[str, Names]) -> Outcome:
    """Whether the validation accuracy of `conv` strays less from its straight line than that of `dense`."""
    groups = {label: records.get_all(names) for label, names in (conv, dense)}
    first = max(_settled(record) for group in groups.values() for record in group)
    unrest = {label: [unsteadiness(_curve(r)[first - 1 :]) for r in group] for label, group in groups.items()}
    return Outcome(
        _separated(unrest[dense[0]], unrest[conv[0]]),
        f"from epoch {first} on {conv[0]} strays {spread(unrest[conv[0]], 2)} points from its straight line, "
        f"{dense[0]} {spread(unrest[dense[0]], 2)}",
        ("network", "stray, points", "largest step down, points", "seeds"),
        tuple(
            (
                label,
                spread(unrest[label], 2),
                spread([_largest_fall(_curve(r)[first - 1 :]) for r in group], 2),
                str(len(group)),
            )
            for label, group in groups.items()
        ),
        tuple(_validation(label, group) for label, group in groups.items()),
        "epoch",
        "validation accuracy",
    )


# Numbers as text


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and range over the seeds of shares, in percent: "68.1 (66.9–69.0)"."""
    return mean_range([100 * value for value in values], digits)


def mean_range(values: Sequence[float], digits: int = 1) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{mean} ({low} to {high})" if min(values) < 0 else f"{mean} ({low}–{high})"


def _scientific(values: Sequence[float]) -> str:
    low, middle, high = f"{min(values):.2g}", f"{statistics.median(values):.2g}", f"{max(values):.2g}"
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def _shares(costs: Sequence[float | None]) -> str:
    known = [cost for cost in costs if cost is not None]
    return f"{spread(known, 0)} %" if len(known) == len(costs) else "not measurable (at chance)"


def _epochs(reached: Sequence[int], curves: Sequence[Sequence[float]]) -> str:
    return ", ".join(str(e) if e <= len(curve) else "never" for e, curve in zip(reached, curves, strict=True))


def _word(answer: Answer) -> str:
    return {True: "yes", False: "no", None: "unclear"}[answer]


# Numbers from records


def _accuracy(record: Record) -> float:
    return record["metrics"]["accuracy"]


def _curve(record: Record) -> list[float]:
    return record["history"]["val_categorical_accuracy"]


def _validation(label: str, group: Sequence[Record]) -> Series:
    return Series(label, range(1, len(_curve(group[0])) + 1), [_curve(record) for record in group])


def _settled(record: Record) -> int:
    recipe = record["recipe"]
    images = record["dataset"]["train"]
    if "validation" not in record["dataset"] and recipe["validation"] != "test":  # training.fit counts the whole split
        images -= int(images * recipe["validation"])
    return min(settled_epoch(images, recipe["batch_size"]), len(_curve(record)))


def _first(curve: Sequence[float], goal: float) -> int:
    """The epoch, from 1, that reaches the goal; one more than there are if none does."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= goal), len(curve) + 1)


def _ratios(timing: Record, above: Timed, below: Timed) -> list[float]:
    seconds = timing["seconds_per_image"]
    return [a / b for a, b in zip(seconds[above.label], seconds[below.label], strict=True)]


def _separated(high: Sequence[float], low: Sequence[float]) -> Answer:
    """Whether all of `high` are above all of `low`; False if all are below or equal."""
    if min(high) > max(low):
        return True
    return False if max(high) <= min(low) else None


def _largest_fall(curve: Sequence[float]) -> float:
    return max([0.0, *(before - after for before, after in pairwise(curve))])


def _cost_of_a_block(drops: dict[str, Any], chance: float) -> float | None:
    """The median share of the accuracy above chance that dropping one block loses; None if there is little to lose."""
    accuracy, dropped = drops["accuracy"], drops["dropped"]
    if accuracy - chance < 0.05:
        return None
    return (accuracy - statistics.median(dropped)) / (accuracy - chance)
