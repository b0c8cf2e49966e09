"""Networks of torchvision and timm, exported by PyTorch itself, brought here and answered over HTTP."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.foreign import pictures, publish
from tests.fixtures.server import ROOT, running
from training.artifact.reading import run_onnx

PYTHON = ROOT / ".venv-torch" / "bin" / "python"
LABELS = ("a", "b", "c", "d", "e", "f")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exported networks, with what PyTorch answers to the pictures in it."""
    folder = tmp_path_factory.mktemp("exports")
    np.savez(folder / "pictures.npz", images=pictures((64, 64, 3), 8))
    script = ROOT / "tests" / "fixtures" / "torch_exports.py"
    subprocess.run([PYTHON, script, folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def test_exports_answer_over_http_as_pytorch_does(exports: Path, tmp_path: Path) -> None:
    with np.load(exports / "pictures.npz") as archive:
        images = archive["images"]
    expected = {path.stem: np.load(path)["probabilities"] for path in exports.glob("*-*.npz")}
    assert len(expected) == 6
    for name in expected:
        options = ["--labels", ",".join(LABELS), "--input-range", "imagenet"]
        artifact = publish(exports / f"{name}.onnx", tmp_path / "models", *options, name=name)
        np.testing.assert_allclose(run_onnx(artifact, images), expected[name], atol=1e-4)
        assert len(set(expected[name].argmax(axis=1))) > 1, name
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    settings = {"models": str(tmp_path / "models"), "default_model": "timm-mobilenet", "workers": "1"}
    with running(tmp_path / "service.log", **settings) as client:
        for name, answers in expected.items():
            for i, answer in enumerate(answers):
                said = client.post(f"/classify?model={name}&top_k=6", (tmp_path / f"{i}.png").read_bytes()).json()
                found = {one["label"]: one["probability"] for one in said["predictions"]}
                np.testing.assert_allclose([found[label] for label in LABELS], answer, atol=1e-4)
