"""The rules that all protocols share: ranking, and when an answer should not be relied on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import artifacts
from serving.artifacts import Artifact
from serving.repository.answers import Answer, answer, rank, rank_all
from tests.fixtures import toy

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return artifacts.read(
        toy.write_artifact(tmp_path, threshold={"probability": 0.8}, unfamiliarity={"threshold": 2.5})
    )


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Artifacts of three classes, by what their cards say of doubt."""
    cards = (
        {"threshold": {"probability": 0.4}, "unfamiliarity": {"threshold": 2.6}},
        {"threshold": None, "unfamiliarity": {"threshold": 0.0}},
        {},
    )
    return [artifacts.read(toy.write_artifact(tmp_path_factory.mktemp("kind"), **card)) for card in cards]


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


ROUNDED = st.sampled_from(
    [0.0, -0.0, 0.25, 0.4, 0.3999995, 0.4000005, 0.5, 1.0, 1e-30]
)  # ties, and what rounding meets
VALUES = st.one_of(ROUNDED, st.floats(0, 1, width=32))


@given(data=st.data())
def test_columns_rank_as_rows_do(kinds: list[Artifact], data: st.DataObject) -> None:
    """Of all that is stated twice: the order, ties, digits, and what makes an answer unsure."""
    artifact = data.draw(st.sampled_from(kinds))
    strange = st.one_of(st.sampled_from([0.0, 2.6, np.nan, np.inf]), st.floats(0, 10, width=32))
    row = st.tuples(VALUES, VALUES, VALUES, strange) if data.draw(st.booleans()) else st.tuples(VALUES, VALUES, VALUES)
    rows = np.array(data.draw(st.lists(row, min_size=1, max_size=6)), np.float32)
    doubts = [data.draw(st.sampled_from([None, "no_figure", "several_figures"])) for _ in rows]
    top_k = data.draw(st.sampled_from([1, 2, 3, 9]))
    least = data.draw(st.one_of(st.none(), st.just("card"), ROUNDED, st.floats(0, 1)))
    found = rank_all(artifact, rows, doubts, top_k, least)
    for at, (values, doubt) in enumerate(zip(rows, doubts, strict=True)):
        expected = rank(answer(artifact, values, doubt, IMAGE), top_k, least)
        best = list(zip(found.classes[at].tolist(), found.probabilities[at].tolist(), strict=True))
        assert (best, found.unsure[at]) == (expected.best, expected.unsure)


def test_no_numbers_are_no_ranking(artifact: Artifact) -> None:
    rows = np.array([[0.5, 0.5, 0.0], [np.nan] * 3], np.float32)
    with pytest.raises(ArithmeticError):
        rank_all(artifact, rows, [None, None], 1)
