"""`make bento` packs serving and models and nothing else, with the pinned uv, and says what it packed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy import bento as building
from tests.fixtures.server import PYTHON, ROOT, committed_artifacts

# The Bento for CUDA differs in what it installs and in one variable.
CUDA = pytest.param(("bentofile.gpu.yaml", "shortcut-gpu"), marks=pytest.mark.thorough, id="shortcut-gpu")


@pytest.fixture(scope="module", params=[pytest.param(("bentofile.yaml", "shortcut"), id="shortcut"), CUDA])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path, str]:
    """The bentofile, its Bento's name and folder, and what was printed; there is no other uv and no index to ask."""
    if not (building.UV / "uv").exists():
        if os.environ.get("CI"):
            pytest.fail("`make .venv-bento/ready` is missing, and CI must have it")
        pytest.skip("no pinned uv: `make .venv-bento/ready`")
    file, name = request.param
    home = tmp_path_factory.mktemp("bentoml")
    environment = os.environ | {"BENTOML_HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    printed = subprocess.run(
        [PYTHON, "-m", "deploy.bento", file], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    (bento,) = (home / "bentos" / name).glob("*/bento.yaml")
    return file, name, bento.parent, printed


def test_a_bento_holds_only_serving_and_models(built: tuple[str, str, Path, str]) -> None:
    file, name, bento, _ = built
    source = bento / "src"
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {"serving/service.py", "serving/page/index.html", "models/dense_resnet-mnist/2/model.onnx"} <= files
    strangers = {f for f in files if not f.startswith(("serving/", "models/")) and f != file and f != "bentofile.yaml"}
    assert not strangers
    assert not {f for f in files if f.endswith((".pyc", ".pb")) or "variables" in f}
    assert yaml.safe_load((bento / "bento.yaml").read_text())["service"] == "serving.service:ImageClassifier"
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "--hash=sha256:" in requirements
    assert "://" not in requirements
    assert "tensorflow" not in requirements
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM python:3.11-slim AS" in dockerfile
    assert "apt-get" not in dockerfile
    assert dockerfile.rindex("\nUSER bentoml\n") < dockerfile.rindex("\nENTRYPOINT ")
    assert ("ARG SHORTCUT_PROVIDER=cuda\nENV SHORTCUT_PROVIDER=$SHORTCUT_PROVIDER" in dockerfile) == ("gpu" in name)


def test_a_bento_holds_the_newest_version_of_each_committed_model(built: tuple[str, str, Path, str]) -> None:
    """And no other: the older ones of those that were trained again would only make the image larger."""
    packed = {
        card.parent.relative_to(built[2] / "src" / "models") for card in built[2].glob("src/models/*/*/card.json")
    }
    newest: dict[str, int] = {}
    for artifact in committed_artifacts():
        newest[artifact.parent.name] = max(newest.get(artifact.parent.name, 0), int(artifact.name))
    assert {Path(name, str(version)) for name, version in newest.items()} <= packed
    older = {Path(a.parent.name, a.name) for a in committed_artifacts() if int(a.name) < newest[a.parent.name]}
    assert not older & packed


def test_the_build_prints_every_model_that_it_packed_and_then_the_tag(built: tuple[str, str, Path, str]) -> None:
    _, name, bento, printed = built
    *lines, tag = printed.splitlines()
    assert tag == f"{name}:{bento.name}"
    listed = re.findall(r"^model +(\S+) +version +(\d+) +[\d.]+ MB", "\n".join(lines), re.M)
    cards = (bento / "src").glob("models/*/*/card.json")
    assert listed == sorted((card.parents[1].name, card.parent.name) for card in cards)


def test_an_image_gets_the_pinned_uv_before_bentoml_looks_for_one(built: tuple[str, str, Path, str]) -> None:
    dockerfile = (built[2] / "env" / "docker" / "Dockerfile").read_text()
    pinned = f"RUN {building.install_uv()}\n"
    assert dockerfile.index(pinned) < dockerfile.index("command -v uv >/dev/null || pip install uv")
    (version,) = re.findall(r"^uv==(\S+)", building.PIN.read_text())
    assert f"'uv=={version} --hash=sha256:" in pinned


def test_the_shell_writes_the_pin_that_pip_reads() -> None:
    """The first command of the three, without an installation."""
    write = building.install_uv().partition(" > ")[0]
    written = subprocess.run(["sh", "-c", write], capture_output=True, text=True, check=True).stdout
    assert written.split() == building.PIN.read_text().replace("\\\n", " ").split()


def test_without_the_pinned_uv_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(building, "UV", tmp_path)
    assert building.main(["bentofile.yaml"]) == 1
    assert "uv is missing: `make bento` installs it" in capsys.readouterr().err


def test_what_git_does_not_know_is_named(tmp_path: Path) -> None:
    checkout, source = tmp_path / "checkout", tmp_path / "src"

    def write(content: str, *files: str) -> None:
        for file in files:
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            (checkout / file).write_text(content)

    def git(*arguments: str) -> None:
        author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", "-C", str(checkout), *author, *arguments], check=True, capture_output=True)

    write("committed", "serving/service.py", "models/ours/1/model.onnx", "models/theirs/1/model.onnx")
    write("{}", "models/ours/1/card.json", "models/theirs/1/card.json")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    write("new", "models/mine/20/card.json", "models/mine/20/model.onnx", "serving/scratch.py")
    write("another", "models/theirs/1/model.onnx")
    shutil.copytree(checkout, source, ignore=shutil.ignore_patterns(".git"))
    changed = building.changed_files(source, checkout)
    assert [" ".join(line.split()) for line in building.packed(source, changed)][:-1] == [
        "model mine version 20 0.0 MB not in git",
        "model ours version 1 0.0 MB",
        "model theirs version 1 0.0 MB changed",
        "file serving/scratch.py not in git",
    ]


def test_outside_a_checkout_it_says_that_git_does_not_know(tmp_path: Path) -> None:
    assert building.changed_files(tmp_path, tmp_path) is None
    assert "git does not say" in list(building.packed(tmp_path, None))[-1]


def test_uv_leaves_out_the_libraries_that_the_service_does_not_use(tmp_path: Path) -> None:
    """The command of the image, with an uv that installs files of OpenVINO's names."""
    libraries = tmp_path / "app/.venv/lib/python3.11/site-packages/openvino/libs"
    kept = {"libopenvino.so.2641", "libopenvino_intel_cpu_plugin.so", "libopenvino_onnx_frontend.so.2641"}
    unused = {"libopenvino_intel_gpu_plugin.so", "libopenvino_intel_npu_plugin.so", "cache.json"}
    unused |= {"libopenvino_tensorflow_lite_frontend.so.2641", "libopenvino_gguf_frontend.so.2641"}
    tests = libraries.parents[1] / "numpy/lib/tests"
    uv = tmp_path / "uv"
    uv.write_text(
        f'#!/bin/sh\nmkdir -p "{libraries}" "{tests}" && touch "{tests}/test_io.py" "{tests}/__init__.py"\n'
        f'cd "{libraries}" && touch {" ".join(kept | unused)} "$@"\n'
    )
    uv.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = building.leave_out_libraries(str(tmp_path), str(tmp_path / "app"))
    subprocess.run(["sh", "-c", command], env=environment, check=True)
    subprocess.run([uv, "an argument"], env=environment, check=True)
    assert {path.name for path in libraries.iterdir()} == kept | {"an argument"}
    assert [path.name for path in tests.iterdir()] == ["__init__.py"]
    (tmp_path / "uv-itself").write_text("#!/bin/sh\nexit 3\n")
    assert subprocess.run([uv], env=environment, check=False).returncode == 3
