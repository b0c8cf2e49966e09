"""The rules that all protocols share: ranking, and when an answer should not be relied on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import artifacts
from serving.artifacts import Artifact
from serving.repository.answers import Answer, answer, rank
from tests.fixtures import toy

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return artifacts.read(
        toy.write_artifact(tmp_path, threshold={"probability": 0.8}, unfamiliarity={"threshold": 2.5})
    )


def made(artifact: Artifact, *row: float, doubt: str | None = None) -> Answer:
    return answer(artifact, np.array(row, np.float32), doubt, IMAGE)


def test_ties_rank_by_index(artifact: Artifact) -> None:
    assert rank(made(artifact, 0.25, 0.5, 0.25), 3).best == [(1, 0.5), (0, 0.25), (2, 0.25)]
    assert rank(made(artifact, 0.5, 0.5, 0.0), 1).best == [(0, 0.5)]


def test_more_than_all_is_all(artifact: Artifact) -> None:
    assert len(rank(made(artifact, 0.25, 0.5, 0.25), 99).best) == 3


@pytest.mark.parametrize(
    ("least", "doubt", "unfamiliarity", "expected"),
    [
        (None, None, None, None),
        (0.5, None, None, None),
        (0.9, None, None, "low_probability"),
        ("card", None, None, "low_probability"),
        (0.9, "several_figures", None, "several_figures"),
        (None, "no_figure", 9.0, "no_figure"),
        (None, None, 2.5, None),
        (None, None, 2.6, "unfamiliar"),
        (0.9, None, 2.6, "unfamiliar"),
        (None, None, float("nan"), "unfamiliar"),
    ],
)
def test_reason_for_doubt(
    artifact: Artifact, least: Any, doubt: str | None, unfamiliarity: float | None, expected: str | None
) -> None:
    row = (0.25, 0.75, 0.0) if unfamiliarity is None else (0.25, 0.75, 0.0, unfamiliarity)
    answered = made(artifact, *row, doubt=doubt)
    assert rank(answered, 1, least).unsure == expected
    assert answered.probabilities.shape == (3,)
    assert (answered.unfamiliarity is None) == (unfamiliarity is None)


def test_card_without_thresholds_doubts_nothing(tmp_path: Path) -> None:
    artifact = artifacts.read(toy.write_artifact(tmp_path))
    assert rank(made(artifact, 0.4, 0.3, 0.3, 99.0), 1, "card").unsure is None


def test_no_threshold_found_doubts_everything(tmp_path: Path) -> None:
    artifact = artifacts.read(toy.write_artifact(tmp_path, threshold=None))
    assert rank(made(artifact, 1.0, 0.0, 0.0), 1, "card").unsure == "low_probability"


def test_no_numbers_are_no_answer(artifact: Artifact) -> None:
    with pytest.raises(ArithmeticError):
        made(artifact, *[float("nan")] * 3)
