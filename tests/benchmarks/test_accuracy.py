"""The checks of accuracy on a model whose card records none, as `training.export` publishes it."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy, gpu
from tests.fixtures import toy
from tests.fixtures.server import Client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Test images with the labels that toy-colours gives them."""
    images = np.random.default_rng(5).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    answers = toy.expected(images, toy.weights((8, 8, 3), len(toy.LABELS))).argmax(axis=1)
    np.savez(tmp_path / "data.npz", x_test=images, y_test=answers)
    return tmp_path / "data.npz"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:aiohttp")
def test_the_accuracy_through_http_is_told_without_one_to_compare(
    service: Client, models: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", f"http://127.0.0.1:{service.port}", "--data", str(data), "--models", str(models)]
    accuracy.main([*options, "--model", "toy-colours"])
    captured = capsys.readouterr()
    assert "20 images posted" in captured.out, captured.err
    assert "%, the card records none: ok" in captured.out


def test_the_gpu_check_tells_the_accuracy_without_one_to_compare(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = data.parent / "models"
    toy.write_artifact(models)
    options = ["--models", str(models), "--data", str(data), "--provider", "cpu", "--seconds", "0.01"]
    assert gpu.main(["toy-colours", *options]) == 0
    assert "the CPU provider's 100.00 %, the card records none" in capsys.readouterr().out
