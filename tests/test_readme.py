"""The README is true: its tree is the tree, its settings are the settings, its tables are the cards, its curl works."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from serving.errors import ClassifyError
from serving.settings import Settings
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import ROOT, Client, committed_artifacts, running
from training import cards

README = (ROOT / "README.md").read_text()


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def tree() -> dict[str, str]:
    """The paths of the README's tree with their descriptions."""
    (block,) = re.findall(r"```\n(Makefile .*?)```", README, re.S)
    paths, folder = {}, ""
    for line in block.splitlines():
        indent, name, text = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()  # type: ignore[union-attr]
        path = folder + name if indent else name
        paths[path.rstrip("/")] = text
        if not indent:
            folder = name
    return paths


def test_every_path_of_the_tree_is_there_and_described() -> None:
    for path, text in tree().items():
        assert (ROOT / path).exists(), path
        assert text, path


def test_every_module_and_top_level_folder_is_in_the_tree() -> None:
    named = tree()
    tops = {path.split("/")[0] for path in named}
    for path in tracked():
        top = path.split("/")[0]
        assert top in tops or "/" not in path or top.startswith(".ci"), f"{top} is not in the README's tree"
        module = Path(path)
        if module.parts[0] in ("training", "serving") and module.suffix == ".py" and len(module.parts) == 2:
            assert module.name == "__init__.py" or path in named, f"{path} is not in the README's tree"


def test_the_settings_table_is_the_dataclass() -> None:
    rows = dict(re.findall(r"^\| `(SHORTCUT_\w+)` \| (.*?) \| .+ \|$", README, re.M))
    assert set(rows) == {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)}
    for spec in fields(Settings):
        assert rows[f"SHORTCUT_{spec.name.upper()}"].strip("` ") == ("" if spec.default == () else str(spec.default))


def test_the_result_tables_are_the_cards(tmp_path: Path) -> None:
    for artifact in committed_artifacts():
        copy = tmp_path / artifact.relative_to(ROOT)
        copy.mkdir(parents=True)
        shutil.copy(artifact / "card.json", copy)
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "models/README.md", cards.SERVED):
        shutil.copy(ROOT / page, tmp_path / page)
    assert cards.main(["--models", str(tmp_path / "models"), "--check"]) == 0


def test_every_code_of_a_failure_is_documented() -> None:
    for failure in [ClassifyError, *ClassifyError.__subclasses__()]:
        assert f"`{failure.code}`" in README


def test_the_curl_of_the_readme_gives_the_answer_it_shows(service: Client, tmp_path: Path) -> None:
    ((command, shown),) = re.findall(r"\$ (curl -F .*)\n(\{.*\})\n", README)
    (tmp_path / "seven.png").write_bytes(encode(digit("7")))
    real = shlex.split(command.replace("localhost:3000", f"127.0.0.1:{service.port}"))
    done = subprocess.run([*real, "-s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer, documented = json.loads(done.stdout), json.loads(shown)
    assert answer["model"] == documented["model"]
    assert answer["predictions"][0]["label"] == documented["predictions"][0]["label"] == "7"
    assert answer.keys() == documented.keys()


def test_ones_own_pictures_become_a_served_answer_as_the_readme_says(tmp_path: Path) -> None:
    """Its five lines, on drawn pictures: smaller ones and for one epoch, but by the same commands."""
    (block,) = re.findall(r"## Your own pictures\n\n```console\n(.*?)```", README, re.S)
    lines = [shlex.split(line, comments=True) for line in re.findall(r"^\$ (.*)$", block, re.M)]
    (_, folder), (_, target, arguments), evaluate, (setting, *serve), curl = lines
    assert serve == ["make", "serve"]
    shown = re.findall(r"^(\w+)  (\w+)$", block, re.M)[0]
    for i in range(24):
        encoded = encode(
            digit("17"[i % 2], (40 + i, 50), ink=(255, 10 * i, 0), ground=(0, 0, 9 * i), mode="RGB"), "JPEG"
        )
        for place in (tmp_path / folder, tmp_path / "more") if i < 20 else (tmp_path / "more",):
            (place / shown[i % 2]).mkdir(parents=True, exist_ok=True)
            (place / shown[i % 2] / f"{i}.jpg").write_bytes(encoded)
    (tmp_path / "new.jpg").write_bytes(encoded)

    # What make would run here: it is not run, since it would set up what the tests run in.
    # Nor does it know of a make that runs these tests, which would say in which folder it is.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    command = ["make", "-n", target, arguments]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    train = shlex.split(told.stdout.splitlines()[-1])
    for command in ([*train, "--image-size", "32", "--epochs", "1"], evaluate):
        assert command[0] == ".venv-dev/bin/python"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, env=environment, check=True)
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + 24

    (name,) = re.findall(r"^SHORTCUT_DEFAULT_MODEL=(.*)$", setting)
    with running(tmp_path / "log", models=str(tmp_path / "models"), default_model=name) as service:
        real = [argument.replace("localhost:3000", f"127.0.0.1:{service.port}") for argument in curl]
        done = subprocess.run([*real, "-s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["model"] == name
    assert {found["label"] for found in answer["predictions"]} == set(shown)


def test_the_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for module in re.findall(r"python -m ([a-z0-9_.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
