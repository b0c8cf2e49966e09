"""An answer -> what this project's JSON says of a picture. Shared by the protocols that have no form of their own."""

from typing import Any

from serving.repository.answers import Answer, Ranking


def predictions(answer: Answer, ranking: Ranking) -> dict[str, Any]:
    """What is said of a picture: its `predictions`, and `unsure` where they should not be relied on."""
    labels, (best, unsure) = answer.labels, ranking
    content: dict[str, Any] = {"predictions": [{"label": labels[i], "index": i, "probability": p} for i, p in best]}
    return content if unsure is None else content | {"unsure": unsure}
