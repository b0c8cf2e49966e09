"""The version stands in one place, the changelog knows it, and the bill of materials names what is there."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import serving
from deploy import packed, sbom
from serving.protocols import openapi
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.server import ROOT


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "serving.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", serving.__version__)
    assert openapi.document(Settings(), ["m"])["info"]["version"] == serving.__version__
    elsewhere = subprocess.run(
        ["git", "grep", "-lF", f'"{serving.__version__}"', "--", "*.py", "*.toml", "*.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert set(elsewhere) <= {"serving/__init__.py"}


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0][0] == serving.__version__


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for environment in ("app/.venv", "usr/local"):
        info = tmp_path / environment / "lib/python3.11/site-packages/Some_Thing-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\n\nName: no header\n")
    for name, said in (
        ("new", "License-Expression: Apache-2.0 OR MIT\nLicense: no\n"),
        (
            "old",
            "License: a text\nClassifier: License :: OSI Approved :: BSD License\n",
        ),
        ("text", "License: MIT\n"),
        ("essay", f"License: {'Permission is hereby granted ' * 20}\n"),
    ):
        info = tmp_path / f"usr/local/lib/python3.11/site-packages/{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n{said}\n")
    (tmp_path / "app/.venv/pyvenv.cfg").write_text("home = /usr/local/bin\nversion_info = 3.11.14\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n')
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    paragraphs = [
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\n"
        "Version: 2.36-9+deb12u1\nTag: a\n b",
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1",
    ]
    (tmp_path / "var/lib/dpkg/status").write_text("\n\n".join(paragraphs) + "\n")
    return tmp_path


def test_the_bill_of_materials_names_distributions_and_packages(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.sbom", str(root), "--name", "mine"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = document["metadata"]["component"]
    assert (named["name"], named["version"]) == ("mine", serving.__version__)
    assert [component["purl"] for component in document["components"]] == [
        "pkg:pypi/essay@1",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=glibc",
        "pkg:pypi/new@1",
        "pkg:pypi/old@1",
        "pkg:generic/python@3.11.14",
        "pkg:pypi/some-thing@1.2",
        "pkg:pypi/text@1",
    ]
    licences = {component["name"]: component.get("licenses") for component in document["components"]}
    assert licences["new"] == [{"expression": "Apache-2.0 OR MIT"}]
    assert licences["old"] == [{"license": {"name": "BSD License"}}]
    assert licences["text"] == [{"license": {"name": "MIT"}}]
    assert licences["essay"] is None


def test_what_a_bento_will_hold_is_printed_and_what_is_not_under_version_control_named(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    assert [line.split()[:3] for line in packed.packed(tmp_path)] == [["toy-colours", "version", "1"]]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert "not under version control" in packed.packed(tmp_path)[0]
    assert all("not under" not in line for line in packed.packed() if line.split()[0] == "dense_resnet-mnist")


def test_a_bento_is_built_with_a_pinned_uv() -> None:
    """BentoML 1.4.39 installs one without a pin where it finds none on PATH."""
    makefile = (ROOT / "Makefile").read_text()
    builds = re.findall(r"^\t(.*bentoml build.*)$", makefile, re.M)
    assert len(builds) == 2
    assert all(line.startswith('PATH="$(CURDIR)/.venv-bento/bin:$$PATH" ') for line in builds)
    assert re.search(r"^uv==\d", (ROOT / "requirements" / "bento.txt").read_text(), re.M)


def test_an_empty_root_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.main([str(tmp_path)]) == 1
    assert "holds no Python distribution" in capsys.readouterr().err
