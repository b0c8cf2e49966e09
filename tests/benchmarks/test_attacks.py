"""Beside each cheap attack honest clients get what they get without it, nearly as fast, and no probe fails.

Judged by ratios of one run, and tried again on a busy machine. `python -m benchmarks.attacks` is the whole of it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import attacks
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, running

SECONDS = 1.5
TRIES = 4
PICTURE = encode(colours())
# As many as fill this small service: it has 60 connections and room for 4 MB of bodies.
SETTINGS = {"workers": "1", "max_connections": "60", "max_bodies_bytes": "4000000", "max_body_bytes": "1000000"}
NUMBERS = {"silent_uploads": (20,), "held_connections": (80,)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("attacked")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours"} | SETTINGS
    with running(folder / "log", **settings) as client:
        yield client
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.floods
@pytest.mark.parametrize("name", [name for name in attacks.ATTACKS if name != "dear_pictures"])
def test_honest_clients_and_probes_hardly_notice(served: Client, name: str) -> None:
    outcomes = []
    for _ in range(TRIES):
        outcomes.append(attacks.measure(served.port, name, "/classify", PICTURE, SECONDS, *NUMBERS.get(name, ())))
        if outcomes[-1].holds:
            return
    pytest.fail("\n".join(map(str, outcomes)))


def test_an_outcome_is_judged_by_ratio_failures_and_probes() -> None:
    def answers(milliseconds: float, status: str = "200", missed: int = 0) -> attacks.Answers:
        found = attacks.Answers([milliseconds] * 10, missed_probes=missed)
        found.statuses[status] = 10
        return found

    alone = answers(1.0)
    assert attacks.Outcome("a", alone, answers(2.9)).holds
    assert not attacks.Outcome("a", alone, answers(3.1)).holds
    assert not attacks.Outcome("a", alone, answers(1.0, "503")).holds
    assert not attacks.Outcome("a", alone, answers(1.0, missed=1)).holds
    assert "FAILS, ratio 3.10" in str(attacks.Outcome("a", alone, answers(3.1)))


def test_the_dear_picture_is_a_small_png(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "dear.png").write_bytes(attacks.checkerboard())
    with Image.open(tmp_path / "dear.png") as picture:
        assert picture.size == (128, 128)
        assert len(picture.convert("L").getcolors() or []) == 2
    assert len(attacks.checkerboard()) < 200
