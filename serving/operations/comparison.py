"""How far a version that is asked beside another agrees with it, as metrics. Knows neither models nor pictures."""

from prometheus_client import Counter, Histogram

from serving.operations.tallies import Observations, Tally

RESULTS = ("agrees", "differs", "failed", "dropped", "incomparable")
_LABELS = ("model", "version")
_PICTURES = Counter(
    "shortcut_shadow_pictures", "Pictures that a shadow was to be asked, by what came of it", (*_LABELS, "result")
)
_DIFFERENCE = Histogram(
    "shortcut_shadow_probability_difference",
    "How far a shadow's top probability is from that of the answer",
    _LABELS,
    buckets=(0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)


class Comparison:
    """Of one shadow. On the event loop."""

    def __init__(self, model: str, version: int):
        labels = (model, str(version))
        self._counts = {result: Tally(_PICTURES.labels(*labels, result)) for result in RESULTS}
        self._difference = Observations(_DIFFERENCE.labels(*labels)).keep

    def count(self, result: str) -> None:
        """One of RESULTS."""
        self._counts[result].count()

    def compared(self, agrees: bool, difference: float) -> None:
        """Both have answered: whether with the same class, and how far apart their top probabilities are."""
        self._difference(difference)
        self.count("agrees" if agrees else "differs")
