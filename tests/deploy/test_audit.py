"""pip-audit's database cannot be asked in the tests: its documented JSON output is the seam."""

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.server import ROOT


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def answer(output: str) -> int:
        done = subprocess.CompletedProcess([], 1, output, "")
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
    assert "2 packages looked up" in printed


@pytest.mark.parametrize(
    "output",
    ["", "no json", json.dumps({"dependencies": [{"name": "numpy", "skip_reason": "Dependency not found on PyPI"}]})],
)
def test_no_database_is_a_skip_with_its_reason(audit: Any, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(output) == 0
    printed = capsys.readouterr().out
    assert "SKIP serving.txt: " in printed
    assert "0 known vulnerabilities" not in printed
