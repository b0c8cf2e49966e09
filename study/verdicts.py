"""Numbers -> yes, no or unclear, by rules that are stated once and used by every claim. Pure functions.

RULES is the text of these rules as the report prints it: change both together.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Answer = bool | None  # None: unclear

HOLDS, HERE, NOT, UNDECIDED = "holds", "holds here", "does not hold", "not decided"
SETTLED = 0.05  # share of batch norm's initial averages under which validation accuracy is believed
BN_MOMENTUM = 0.99  # Keras' default
ABOUT_EQUAL = (0.8, 1.25)
ABOUT_DOUBLE = (1.6, 2.5)

RULES = f"""
- **A is clearly above B** when every seed of A is above every seed of B (for three against three that happens by
  chance once in 20). With fewer than three seeds on either side the distance must also exceed twice the sampling
  error of accuracies measured on that many test images. Anything else is *unclear*.
- **A ratio of times** is taken within each round of the paired timing. It is *about equal* when its middle half
  (first to third quartile) lies in {ABOUT_EQUAL[0]}–{ABOUT_EQUAL[1]}, *about double* in
  {ABOUT_DOUBLE[0]}–{ABOUT_DOUBLE[1]}. It is not when the middle half lies wholly outside, and unclear across an edge.
- **Batch norm lags**: its averages start at 0 and 1 and keep {BN_MOMENTUM} of themselves each step. Validation
  accuracies count from the first epoch after which less than {SETTLED:.0%} of that start is left.
- **A claim** is judged in each setting (data, size) on its own. *Holds*: yes in at least two settings, and in none no
  or unclear. *Holds here*: yes only in the settings named, or only one was tried. *Does not hold*: no in at least one
  setting and yes in none. *Not decided*: otherwise, or when a run is missing.
""".strip()


@dataclass(frozen=True)
class Series:
    """One line or group of bars of a plot: `runs` has one list per seed, each as long as `x`."""

    label: str
    x: Sequence[float | str]
    runs: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Outcome:
    """What one setting says: the answer and why, a table, and what to draw."""

    answer: Answer
    why: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    series: tuple[Series, ...] = ()
    x_label: str = ""
    y_label: str = ""
    logarithmic: bool = False


@dataclass(frozen=True)
class Verdict:
    word: str
    why: str
    settings: dict[str, Outcome] = field(default_factory=dict)


def verdict(outcomes: dict[str, Outcome], missing: Sequence[str], needed: int) -> Verdict:
    """The claim's verdict from its outcome in each setting that has all its records."""
    if missing:
        return Verdict(UNDECIDED, f"{len(missing)} of {needed} runs are missing", outcomes)
    said = "; ".join(f"{setting}: {outcome.why}" for setting, outcome in outcomes.items())
    answers = [outcome.answer for outcome in outcomes.values()]
    yes = [setting for setting, outcome in outcomes.items() if outcome.answer is True]
    if len(yes) > 1 and len(yes) == len(answers):
        return Verdict(HOLDS, said, outcomes)
    if yes:
        return Verdict(HERE, said, outcomes)
    return Verdict(NOT if False in answers else UNDECIDED, said or "nothing was measured", outcomes)


def clearly_above(a: Sequence[float], b: Sequence[float], images: int) -> Answer:
    """Whether accuracies `a`, one per seed, are above `b`; False if clearly below."""
    margin = 0.0
    if min(len(a), len(b)) < 3:
        errors = [max(0.0, p * (1 - p)) / images for p in (statistics.fmean(a), statistics.fmean(b))]
        margin = 2 * math.sqrt(sum(errors))
    if min(a) - max(b) > margin:
        return True
    return False if min(b) - max(a) > margin else None


def all_agree(answers: Sequence[Answer]) -> Answer:
    """Yes if all are yes, no if one is no, else unclear."""
    if any(answer is False for answer in answers):
        return False
    return None if None in answers else True


def one_sign(values: Sequence[float]) -> Answer:
    """Yes if every value is above 0, no if every value is at most 0."""
    if all(value > 0 for value in values):
        return True
    return False if all(value <= 0 for value in values) else None


def within(values: Sequence[float], limits: tuple[float, float]) -> Answer:
    """Whether the middle half of `values` lies in `limits`; False if wholly outside."""
    low, _, high = quartiles(values)
    if limits[0] <= low and high <= limits[1]:
        return True
    return False if high < limits[0] or low > limits[1] else None


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def settled_epoch(images: int, batch_size: int) -> int:
    """The first epoch (from 1) after which batch norm's averages are settled."""
    steps = math.ceil(images / batch_size)
    return max(1, math.ceil(math.log(SETTLED) / math.log(BN_MOMENTUM) / steps))


def unsteadiness(accuracies: Sequence[float]) -> float:
    """Root mean square distance of an accuracy curve from its straight line over the epochs: improving is no unrest."""
    count = len(accuracies)
    if count < 3:
        return 0.0
    slope, intercept = statistics.linear_regression(range(count), accuracies)
    return math.sqrt(statistics.fmean((y - slope * i - intercept) ** 2 for i, y in enumerate(accuracies)))
