"""`bentoml build` makes a Bento that holds serving and models, nothing else, and needs no network."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.fixtures.server import PATH_WITH_UV, PYTHON, ROOT


@pytest.mark.parametrize(("file", "name"), [("bentofile.yaml", "shortcut"), ("bentofile.gpu.yaml", "shortcut-gpu")])
def test_a_bento_holds_only_serving_and_models(tmp_path: Path, file: str, name: str) -> None:
    environment = os.environ | {"BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True", "PATH": PATH_WITH_UV}
    subprocess.run(
        [PYTHON, "-m", "bentoml", "build", "-f", file], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    (bento,) = (tmp_path / "bentos" / name).glob("*/bento.yaml")
    source = bento.parent / "src"
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {"serving/service.py", "serving/page/index.html", "models/dense_resnet-mnist/1/model.onnx"} <= files
    strangers = {f for f in files if not f.startswith(("serving/", "models/")) and f != file and f != "bentofile.yaml"}
    assert not strangers
    assert not {f for f in files if f.endswith((".pyc", ".pb")) or "variables" in f}
    assert yaml.safe_load(bento.read_text())["service"] == "serving.service:ImageClassifier"
    requirements = (bento.parent / "env" / "python" / "requirements.txt").read_text()
    assert "--hash=sha256:" in requirements
    assert "://" not in requirements
    assert "tensorflow" not in requirements
    dockerfile = (bento.parent / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM python:3.11-slim AS" in dockerfile
    assert "apt-get" not in dockerfile
    assert dockerfile.rindex("\nUSER bentoml\n") < dockerfile.rindex("\nENTRYPOINT ")
    assert ("ARG SHORTCUT_PROVIDER=cuda\nENV SHORTCUT_PROVIDER=$SHORTCUT_PROVIDER" in dockerfile) == ("gpu" in name)
