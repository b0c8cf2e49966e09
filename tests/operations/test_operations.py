"""docs/operations.md is true: its settings are the settings, its metrics the metrics, its log lines are in the code."""

import re
from dataclasses import fields

from prometheus_client import Histogram

from serving.settings import Settings
from tests.fixtures.server import ROOT
from tests.fixtures.telemetry import figures

PAGE = (ROOT / "docs" / "operations.md").read_text()
METRICS = figures()


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return str(text)


def test_the_settings_table_stands_in_one_place() -> None:
    assert re.findall(r"^\| `SHORTCUT_\w+` \|", PAGE, re.M) == []
    assert "settings.md#settings" in section("Settings")


def test_every_setting_that_is_named_exists() -> None:
    known = {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)}
    assert set(re.findall(r"SHORTCUT_[A-Z_]+", PAGE)) <= known


def test_the_metrics_table_is_what_telemetry_defines() -> None:
    rows = {
        name: (kind, labels) for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]+) \|", PAGE, re.M)
    }
    assert rows == {
        name: (type(metric).__name__.lower(), ", ".join(metric._labelnames) or "none")
        for name, metric in METRICS.items()
    }


def test_every_metric_that_is_asked_for_exists() -> None:
    series = set(METRICS)
    for name, metric in METRICS.items():
        if isinstance(metric, Histogram):
            series |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    assert set(re.findall(r"\bshortcut_\w+", PAGE)) <= series


def test_the_log_lines_are_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    lines = re.findall(r"^\| `([^`]+)` \| (?:info|error|critical) \|", section("Log"), re.M)
    assert len(lines) >= 7
    assert [line for line in lines if line not in code] == []
