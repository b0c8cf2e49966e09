"""The version stands in one place, the changelog knows it, and the bill of materials names what is there."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import serving
from deploy import sbom
from serving.protocols import openapi
from serving.settings import Settings
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
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=glibc",
        "pkg:generic/python@3.11.14",
        "pkg:pypi/some-thing@1.2",
    ]


def test_an_empty_root_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.main([str(tmp_path)]) == 1
    assert "holds no Python distribution" in capsys.readouterr().err
