"""What the native protocol writes: the JSON of json.dumps, each doubt counted, and what is served described."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.engine.measurements import Measurements
from serving.operations import metrics
from serving.protocols import answers, native
from serving.protocols.native import Limits, Native
from serving.repository.answers import Answer, answer
from serving.repository.models import Repository
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.edge.test_router import request
from tests.fixtures import toy


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for version in (1, 2):
        toy.write_artifact(tmp_path, version=version, threshold={"probability": 0.8})
    settings = Settings(models=tmp_path, default_model="toy-colours", versions="all", provider="cpu", cache=tmp_path)
    return Repository(settings, 1, Measurements(tmp_path))


def answered(served: ServedModel, *probabilities: float, doubt: str | None = None) -> Answer:
    return answer(served.artifact, np.array(probabilities, np.float32), doubt, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("top_k", [1, 2, 99])
@pytest.mark.parametrize("doubt", [None, "no_figure"])
def test_body_is_what_json_would_write(repository: Repository, top_k: int, doubt: str | None) -> None:
    served = repository.find()
    found = answered(served, 1e-7, 0.9999999, 0.0123456, doubt=doubt)
    ranking = served.rank(found, top_k)
    whole = {"model": "toy-colours", "version": 2, **answers.predictions(found, ranking)}
    assert whole.get("unsure") == doubt
    assert answers.answer_text(served, ranking) == json.dumps(whole, separators=(",", ":")).encode()
    scores = [{"label": found.labels[i], "score": p} for i, p in ranking.best]
    assert answers.scores_text(served, ranking) == json.dumps(scores, separators=(",", ":")).encode()


def test_labels_are_those_of_the_version(tmp_path: Path) -> None:
    """Two models, one after the other, whatever is remembered of the first."""
    for labels in (("a", "b", "c"), ('"quoted"', "naïve", "\n")):
        toy.write_artifact(tmp_path / labels[0].strip('"'), labels=labels)
        folder = tmp_path / labels[0].strip('"')
        settings = Settings(models=folder, default_model="toy-colours", provider="cpu", cache=tmp_path)
        served = Repository(settings, 1, Measurements(tmp_path)).find()
        content = json.loads(answers.answer_text(served, served.rank(answered(served, 0.5, 0.3, 0.2), 3)))
        assert [one["label"] for one in content["predictions"]] == list(labels)


@pytest.mark.parametrize(
    ("least", "doubt", "expected"),
    [(None, None, None), ("card", None, "low_probability"), (None, "no_figure", "no_figure")],
)
def test_doubt_is_counted(repository: Repository, least: str | None, doubt: str | None, expected: str | None) -> None:
    served = repository.find()
    series = f'shortcut_unsure_answers_total{{model="toy-colours",reason="{expected}",version="2"}} '

    def counted() -> float:
        return float((metrics.exposition().decode().partition(series)[2].split() or ["0"])[0])

    before = counted()
    assert served.rank(answered(served, 0.25, 0.75, 0.0, doubt=doubt), 1, least).unsure == expected
    assert counted() - before == (expected is not None)


def test_what_is_served_is_described(repository: Repository) -> None:
    door = Native(lambda: repository, Limits(1, 1, 1, 1))
    described = json.loads(door.list_models(request("GET", "/models")).body)
    assert described["default"] == "toy-colours"
    assert [v["version"] for v in described["models"][0]["versions"]] == [1, 2]
    asked = request("GET", "/models/toy-colours")
    asked.parameters = {"name": "toy-colours"}
    one = json.loads(door.describe_model(asked).body)
    assert one["card"]["name"] == "toy-colours"
    assert one["versions"][0]["provider"] == "CPUExecutionProvider"
    assert one["versions"][0]["provider_reason"] == "SHORTCUT_PROVIDER=cpu"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("top_k=", "top_k is empty; leave it out for the default"),
        ("model=", "model is empty"),
        ("min_probability=", "min_probability is empty"),
        (
            "top_n=3",
            "the query parameter 'top_n' is not known; there is model, version, top_k, min_probability, explain",
        ),
        ("top_k=3&top_k=5", "top_k is given twice, and differently"),
        ("=3", "the query parameter '' is not known"),
    ],
)
def test_parameter_that_says_nothing_is_refused(query: str, message: str) -> None:
    with pytest.raises(native.InvalidParameter) as raised:
        native.parse_query(query.encode())
    assert str(raised.value).startswith(message)
