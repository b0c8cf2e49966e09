"""A published model in the forms of other tools: what the files hold, and what loads them where it is installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.fixtures.server import ROOT
from training.artifact.triton import config
from training.publish import main

MODEL = ROOT / "models" / "digits_cnn-mnist"
PYTHON = ROOT / ".venv-elsewhere" / "bin" / "python"


def golden() -> tuple[np.ndarray, np.ndarray]:
    version = max((p for p in MODEL.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    with np.load(version / "golden.npz") as archive:
        return archive["image"], archive["probabilities"]


def written(form: str, tmp_path: Path) -> Path:
    output = tmp_path / form
    assert main([str(MODEL), "--to", form, "--output", str(output)]) == 0
    return output


def test_a_plain_file_answers_alone(tmp_path: Path) -> None:
    images, expected = golden()
    session = onnxruntime.InferenceSession(written("onnx", tmp_path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probabilities"], {"image": images})[0], expected, atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list("0123456789")


def test_the_code_in_a_model_card_runs(tmp_path: Path) -> None:
    folder = written("hf-folder", tmp_path)
    images, expected = golden()
    Image.fromarray(images[0, ..., 0]).save(folder / "picture.png")
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    assert run.stdout.split()[0] == str(expected[0].argmax())
    names = json.loads((folder / "config.json").read_text())["id2label"]
    assert names == {str(i): str(i) for i in range(10)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody", "--to", "onnx"], "error: nobody: neither an artifact"),
        (["models/nobody", "--to", "onnx"], "error: models/nobody: neither an artifact"),
        ([str(MODEL), "--to", "onnx", "--output", str(ROOT / "README.md")], "exists already"),
        ([str(MODEL), "--to", "mlflow", "--output", str(ROOT / "docs")], "exists already"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_a_changed_graph_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(MODEL / "1", tmp_path / "mine" / "1")
    with (model / "model.onnx").open("ab") as graph:
        graph.write(b"more")
    assert main([str(model), "--to", "onnx", "--output", str(tmp_path / "mine.onnx")]) == 1
    assert "model.onnx is not the one of its card" in capsys.readouterr().err
    assert not (tmp_path / "mine.onnx").exists()


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "models").glob("*/config.pbtxt")))
def test_every_committed_model_has_tritons_configuration(folder: Path) -> None:
    version = max((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    card = json.loads((version / "card.json").read_text())
    text = (folder / "config.pbtxt").read_text()
    told = "unfamiliarity" in text
    assert text == config(card["name"], card["input_shape"], len(card["labels"]), told)


# Loaded by their own libraries: `make elsewhere-test`

MLFLOW = """
import sys, numpy, mlflow
images, output = numpy.load(sys.argv[2]), sys.argv[3]
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict(images)
numpy.save(output, answer["probabilities"] if isinstance(answer, dict) else answer)
"""
HUB = """
import sys
from huggingface_hub import ModelCard
data = ModelCard.load(sys.argv[1]).data.to_dict()
assert data["pipeline_tag"] == "image-classification", data
assert data["model-index"][0]["results"][0]["metrics"][0]["value"] > 0.9, data
"""
TRITON = """
import importlib.util, pathlib, sys
from google.protobuf import text_format
place = pathlib.Path(importlib.util.find_spec("tritonclient").submodule_search_locations[0])
spec = importlib.util.spec_from_file_location("model_config_pb2", place / "grpc" / "model_config_pb2.py")
schema = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)
for file in sys.argv[1:]:
    config = text_format.Parse(pathlib.Path(file).read_text(), schema.ModelConfig())
    assert config.name == pathlib.Path(file).parent.name and config.backend == "onnxruntime"
    assert config.input[0].data_type == schema.TYPE_UINT8 and len(config.input[0].dims) == 3
"""


def theirs(code: str, *arguments: str) -> None:
    subprocess.run([PYTHON, "-c", code, *arguments], check=True, env={"MLFLOW_DISABLE_TELEMETRY": "true"})


@pytest.mark.elsewhere
def test_mlflow_answers_from_its_folder(tmp_path: Path) -> None:
    folder = written("mlflow", tmp_path)
    images, expected = golden()
    np.save(tmp_path / "images.npy", images)
    theirs(MLFLOW, str(folder), str(tmp_path / "images.npy"), str(tmp_path / "answers.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-4)


@pytest.mark.elsewhere
def test_the_hub_reads_the_model_card(tmp_path: Path) -> None:
    theirs(HUB, str(written("hf-folder", tmp_path) / "README.md"))


@pytest.mark.elsewhere
def test_triton_reads_every_configuration() -> None:
    files = sorted((ROOT / "models").glob("*/config.pbtxt"))
    assert files
    theirs(TRITON, *map(str, files))
