"""What protocols share of answering: one picture without a task of its own, and this project's JSON of an answer."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.edge.http1 import Request, Response, write_json
from serving.edge.router import failed
from serving.errors import UnknownModel
from serving.operations import metrics
from serving.repository.answers import Answer, Outcome, Ranking
from serving.repository.models import Repository
from serving.repository.served import ServedModel


def model_of_path(request: Request, repository: Repository) -> ServedModel:
    """The model that the `name` and the `version`, if any, in a request's path mean. Raises UnknownModel or
    Unavailable."""
    version = request.parameters.get("version")
    if version is not None and not (version.isascii() and version.isdecimal() and len(version) <= 19):
        raise UnknownModel(f"a version is a whole number, got {version[:40]!a}")
    return repository.find(request.parameters["name"], None if version is None else int(version))


def answer_one(
    request: Request,
    served: ServedModel,
    picture: bytes | np.ndarray,
    min_probability: float | str | None,
    write: Callable[[Answer], Response],
) -> None:
    """Answer `request` with what `write` makes of the picture's answer, once that is there.

    `picture` is a file, or an array of the model's input, (H, W, C) uint8. Cheaper than a coroutine that awaits it.
    Raises what refuses the picture at once.
    """
    done = functools.partial(_respond, request, write)
    if isinstance(picture, np.ndarray):
        request.pending = served.submit(picture, done, min_probability=min_probability)
    else:
        request.pending = served.predict(picture, done, None, min_probability)


def _respond(request: Request, write: Callable[[Answer], Response], outcome: Outcome) -> None:
    try:
        if isinstance(outcome, Answer):
            if metrics.detailed:
                request.stages = outcome.stages
            response = write(outcome)
        else:
            response = failed(request, outcome)
    except Exception as err:  # the outermost edge for what a protocol writes
        response = failed(request, err)
    request.respond(response)


def predictions(answer: Answer, ranking: Ranking) -> dict[str, Any]:
    """What is said of a picture: its `predictions`, and `unsure` where they should not be relied on."""
    labels, (best, unsure) = answer.labels, ranking
    content: dict[str, Any] = {"predictions": [{"label": labels[i], "index": i, "probability": p} for i, p in best]}
    return content if unsure is None else content | {"unsure": unsure}


# An answer's JSON without a detour through dictionaries: half the time of json.dumps


class _Texts:
    """What is the same in every answer of a version, written once."""

    def __init__(self, served: ServedModel):
        artifact = served.artifact
        self.start = write_json({"model": artifact.name, "version": artifact.version})[:-1] + ',"predictions":['
        self.indexed = [
            write_json({"label": label, "index": i})[:-1] + ',"probability":' for i, label in enumerate(artifact.labels)
        ]
        self.scored = [write_json({"label": label})[:-1] + ',"score":' for label in artifact.labels]


_texts: weakref.WeakKeyDictionary[ServedModel, _Texts] = weakref.WeakKeyDictionary()


def answer_text(served: ServedModel, ranking: Ranking) -> bytes:
    """As write_json would write the model, the version and `predictions`."""
    texts = _texts.get(served) or _texts.setdefault(served, _Texts(served))
    labels = texts.indexed
    best = ",".join([f"{labels[i]}{p!r}}}" for i, p in ranking.best])
    doubt = "" if ranking.unsure is None else f',"unsure":"{ranking.unsure}"'
    return f"{texts.start}{best}]{doubt}}}".encode()


def scores_text(served: ServedModel, ranking: Ranking) -> bytes:
    """As write_json would write [{"label": …, "score": …}, …]."""
    labels = (_texts.get(served) or _texts.setdefault(served, _Texts(served))).scored
    best = ",".join([f"{labels[i]}{p!r}}}" for i, p in ranking.best])
    return f"[{best}]".encode()
