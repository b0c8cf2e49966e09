"""How many strange pictures a served model calls unsure, through HTTP and by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import unfamiliar
from benchmarks.unfamiliar import Answers, auroc, caught, table
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.server import Client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A model to which bright pictures are unfamiliar, and one that knows nothing of them."""
    folder = tmp_path_factory.mktemp("unfamiliar")
    toy.write_artifact(folder / "models", "toy-dark", unfamiliar_from=0.3)
    toy.write_artifact(folder / "models", "toy-colours")
    with running_inside(folder / "service.log", models=str(folder / "models"), default_model="toy-dark") as client:
        yield client


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of dark pictures, and an .npz of bright ones."""
    rng = np.random.default_rng(4)
    for i, image in enumerate(rng.integers(0, 120, (40, 8, 8, 3), np.uint8)):
        (tmp_path / "dark" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "dark" / str(i % 2) / f"{i}.png")
    np.savez(tmp_path / "bright.npz", x_test=rng.integers(150, 256, (30, 8, 8, 3), dtype=np.uint8))
    return tmp_path


def test_strange_pictures_are_counted_through_http(
    service: Client, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", f"http://127.0.0.1:{service.port}", "--own", str(pictures / "dark"), "--side", "8"]
    assert unfamiliar.main([*options, "--strange", f"bright={pictures / 'bright.npz'}", "--count", "35"]) == 0
    rows = {row.split(" | ")[0][2:]: row.split(" | ")[1:] for row in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["its own", "noise", "blank sheets", "bright"]
    assert rows["its own"][:2] == ["35", "0.0%"]
    assert rows["noise"][:3] == ["35", "100.0%", "100.0%"]  # its mean is half of white
    assert rows["bright"][:3] == ["30", "100.0%", "100.0%"]
    assert rows["bright"][4] == "1.000"
    assert unfamiliar.main([*options, "--model", "toy-colours"]) == 1
    assert "toy-colours has no output `unfamiliarity`" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "told"), [("nowhere", "neither a folder"), (".", "there is no picture")])
def test_a_wrong_source_is_named(
    service: Client, tmp_path: Path, option: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unfamiliar.main(["--url", f"http://127.0.0.1:{service.port}", "--own", str(tmp_path / option)]) == 1
    assert told in capsys.readouterr().err


def test_the_shares_are_those_of_the_definitions() -> None:
    own, strange = np.arange(100.0), np.array([94.0, 95.5, 200.0, 30.5])
    assert caught(own, strange) == 0.5  # five of a hundred are above 94
    assert auroc(own, strange) == np.mean([(value > own).mean() + (value == own).mean() / 2 for value in strange])
    assert auroc(own, own) == 0.5
    known = Answers(np.full(100, 0.9), own, own > 98)
    assert "| foes | 4 | 25.0% | 50.0% | 0.0% |" in table(
        {"its own": known, "foes": Answers(np.full(4, 0.9), strange, strange > 100)}
    )
