"""The version stands in one place, the changelog knows it, and the bill of materials names what is there."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import serving
from deploy import sbom
from serving.protocols import openapi
from tests.fixtures.server import PYTHON, ROOT


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "serving.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", serving.__version__)
    assert openapi.document([], [], [], with_keys=False)["info"]["version"] == serving.__version__
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
        (info / "METADATA").write_text(
            "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\n\n"
            "Name: no header\n"
        )
    (tmp_path / "app/.venv/pyvenv.cfg").write_text("home = /usr/local/bin\nversion_info = 3.11.14\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n')
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    paragraphs = [
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\n"
        "Version: 2.36-9+deb12u1\nTag: a\n b",
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1",
    ]
    (tmp_path / "usr/share/doc/libc6").mkdir(parents=True)
    (tmp_path / "usr/share/doc/libc6/copyright").write_text(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: LGPL-2.1+\n"
        " text\n\nFiles: b\nLicense: Expat\n\nLicense: LGPL-2.1+\n text\n"
    )
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
    assert [licences(component) for component in document["components"]] == [
        ["Expat", "LGPL-2.1+"],
        ["Python-2.0.1"],
        ["MIT OR Apache-2.0"],
    ]
    assert done.stderr == ""


def licences(component: dict[str, Any]) -> list[str]:
    """SPDX identifiers or expressions, or whatever names there are, of a component of the document."""
    found = component.get("licenses", [])
    names = [each.get("expression") or each["license"].get("id") or each["license"]["name"] for each in found]
    return sorted(names)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: BSD-3-Clause AND MIT\nLicense: BSD", ["BSD-3-Clause AND MIT"]),
        ("License: apache-2.0\nClassifier: License :: OSI Approved :: MIT License", ["Apache-2.0"]),
        ("License: Apache 2.0", ["Apache-2.0"]),
        ("License: BSD", ["BSD"]),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", ["MIT"]),
        (
            "License: Copyright (c) Somebody\n  All rights\nClassifier: License :: OSI Approved :: BSD License",
            ["BSD License"],
        ),
        (
            "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: Apache Software License\n"
            "Classifier: License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",
            ["Apache Software License", "MPL-2.0"],
        ),
        ("License: The Licence of Nobody\n\tmay be read", ["The Licence of Nobody"]),
        ("License-File: LICENSE", []),
    ],
)
def test_a_distribution_has_the_licence_that_its_metadata_declares(
    tmp_path: Path, metadata: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1\n{metadata}\n\nText\n")
    assert sbom.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    (component,) = json.loads(printed.out)["components"]
    assert licences(component) == expected
    assert printed.err == ("" if expected else "1 of 1 declare no licence: thing\n")


def test_a_free_copyright_file_counts_by_the_common_licences_it_names(root: Path) -> None:
    file = root / "usr/share/doc/libc6/copyright"
    file.write_text("This is free; see /usr/share/common-licenses/GPL-2, or `/usr/share/common-licenses/LGPL-2.1'.\n")
    (package,) = sbom.debian_packages(root)
    assert sorted(each.id or each.name for each in package.licenses) == ["GPL-2", "LGPL-2.1"]
    file.unlink()
    file.symlink_to("/etc/hostname")  # a link out of the image is of the machine that reads it
    (package,) = sbom.debian_packages(root)
    assert not package.licenses


def test_everything_that_serving_installs_declares_a_licence() -> None:
    installed = list(sbom.python_distributions(Path(PYTHON).parents[1].resolve()))
    assert len(installed) > 50
    assert [component.name for component in installed if not component.licenses] == []


def test_an_empty_root_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.main([str(tmp_path)]) == 1
    assert "holds no Python distribution" in capsys.readouterr().err
