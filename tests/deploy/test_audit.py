"""What the audit prints. The database cannot be asked in the tests: pip-audit's documented JSON output is the seam."""

import importlib.util
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.server import ROOT, free_port


@pytest.fixture
def module() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def audit(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def answer(output: str, errors: str = "") -> int:
        done = subprocess.CompletedProcess([], 1, output, errors)
        monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
        count: int = module.audit(Path("serving.txt"))
        return count

    return answer


def test_a_vulnerability_is_counted_and_named(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"id": "CVE-2025-54381", "fix_versions": ["1.4.19"], "aliases": [], "description": ""}
    packages = [
        {"name": "bentoml", "version": "1.4.0", "vulns": [found]},
        {"name": "numpy", "version": "2.4.6", "vulns": []},
    ]
    assert audit(json.dumps({"dependencies": packages, "fixes": []})) == 1
    printed = capsys.readouterr().out
    assert "bentoml 1.4.0: CVE-2025-54381, fixed in 1.4.19" in printed
    assert "2 of 2 packages looked up, 1 known vulnerabilities" in printed


def skipped(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "skip_reason": "Dependency not found on PyPI"} for name in names]


@pytest.mark.parametrize(
    ("output", "errors", "reason"),
    [
        ("", "Traceback\n  …\nConnectionError: no route to host\n", "ConnectionError: no route to host"),
        ("no json", "", "pip-audit said nothing"),
        (json.dumps({"dependencies": []}), "", "none of 0 packages was looked up: pip-audit saw no package"),
        (json.dumps({"dependencies": skipped("numpy", "pillow")}), "", "none of 2 packages was looked up: Dependency"),
    ],
)
def test_what_was_not_looked_up_does_not_read_as_free_of_vulnerabilities(
    audit: Any, output: str, errors: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(output, errors) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"NOT AUDITED serving.txt: {reason}")
    assert "vulnerabilities" not in printed
    assert len(printed.splitlines()) == 1


def test_packages_that_were_left_out_are_named_beside_the_count(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    packages = [{"name": "numpy", "version": "2.4.6", "vulns": []}, *skipped(*"abcdef")]
    assert audit(json.dumps({"dependencies": packages})) == 0
    count, left_out = capsys.readouterr().out.splitlines()
    assert count == "serving.txt: 1 of 7 packages looked up, 0 known vulnerabilities"
    assert left_out.startswith("NOT AUDITED serving.txt: 6 of 7 packages (a, b, c, d, e, …): Dependency not found")


def test_the_real_pip_audit_without_a_network_is_not_audited(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy that nobody listens on stands for no network."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    (tmp_path / "some.txt").write_text(f"numpy==2.4.6 --hash=sha256:{'0' * 64}\n")
    assert module.audit(tmp_path / "some.txt") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("NOT AUDITED some.txt: ")
    assert "vulnerabilities" not in printed


def test_a_network_that_never_answers_ends_the_audit(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setattr(module, "LIMIT_SECONDS", 1)
        (tmp_path / "some.txt").write_text(f"numpy==2.4.6 --hash=sha256:{'0' * 64}\n")
        assert module.audit(tmp_path / "some.txt") == 0
    assert capsys.readouterr().out == "NOT AUDITED some.txt: pip-audit did not end within 1 s\n"
