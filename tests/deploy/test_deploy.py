"""What deploy/ says of our metrics and settings is so: every query is held against the metrics that exist."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram

from serving.edge import keys
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import ROOT, Client, free_port, running
from tests.fixtures.telemetry import figures

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "shortcut.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
OF_THE_SCRAPE = {"instance", "job"}


def series() -> dict[str, set[str]]:
    """Every name that /metrics can hold, and its labels."""
    found: dict[str, set[str]] = {}
    for name, metric in figures().items():
        labels = set(metric._labelnames)
        if isinstance(metric, Histogram):
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def documented_queries() -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", OPERATIONS, re.S)
    lines = [line for line in "".join(blocks).splitlines() if not line.startswith("#")]
    return re.sub(r"\n\s+", " ", "\n".join(lines)).splitlines()


QUERIES = [*dashboard_queries(), *documented_queries(), *(rule["expr"] for rule in RULES)]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_what_exists(query: str) -> None:
    known = series()
    named = re.findall(r"\b(shortcut_\w+)(?:\{([^}]*)\})?", query)
    assert named or query.startswith("up{")
    labels = set()
    for name, selector in named:
        assert name in known, name
        labels |= known[name]
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            assert label in known[name] | OF_THE_SCRAPE, (name, label)
    for grouping in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", query):
        assert {label.strip() for label in grouping.split(",")} <= labels | OF_THE_SCRAPE, grouping


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set(re.findall(r"shortcut_\w+", " ".join(dashboard_queries())))
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert bases == {re.sub("_(bucket|sum|count)$", "", name) for name in series()}


def test_the_operations_page_explains_every_alert() -> None:
    section = OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == [rule["alert"] for rule in RULES]


def promtool(*arguments: str | Path) -> str:
    if shutil.which("promtool") is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing, and CI must have it")
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_sound() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_not_when_all_is_well() -> None:
    promtool("test", "rules", "alerts_test.yml")
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    for case in cases:
        assert {test["alertname"] for test in case["alert_rule_test"]} == {rule["alert"] for rule in RULES}
    assert [any("exp_alerts" in test for test in case["alert_rule_test"]) for case in cases] == [False, True]


def test_the_queries_of_dashboard_and_page_are_promql(tmp_path: Path) -> None:
    queries = [concrete(query) for query in (*dashboard_queries(), *documented_queries())]
    rules = [{"record": f"query{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def concrete(query: str) -> str:
    """As Grafana sends it."""
    return query.replace("$__rate_interval", "1m").replace("$instance", ".*")


def test_compose_sets_settings_that_exist() -> None:
    known = {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)}
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    for compose in (COMPOSE, gpu):
        assert set(compose["services"]["shortcut"].get("environment", {})) <= known


def test_compose_holds_the_service_tightly_and_lets_it_drain() -> None:
    service = COMPOSE["services"]["shortcut"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    drain = int(service["environment"]["SHORTCUT_DRAIN_SECONDS"])
    assert int(service["stop_grace_period"].removesuffix("s")) >= drain + 25
    mounted = [
        volume.rpartition(":-")[2].split("}")[0].split(":")[0]
        for s in COMPOSE["services"].values()
        for volume in s.get("volumes", [])
    ]
    assert all((DEPLOY / source).exists() for source in mounted if source.startswith("."))
    for image in (s["image"] for name, s in COMPOSE["services"].items() if name != "shortcut"):
        assert re.search(r":v?\d+\.\d+\.\d+$", image), image


def test_the_health_check_of_compose_asks_for_readiness(service: Client) -> None:
    test = COMPOSE["services"]["shortcut"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python", "-c"]
    script = test[3].replace("3000", str(service.port))
    assert script != test[3]
    assert subprocess.run(["python3", "-c", script], capture_output=True, check=False).returncode == 0
    nobody = test[3].replace("3000", str(free_port()))
    assert subprocess.run(["python3", "-c", nobody], capture_output=True, check=False).returncode == 1


@contextmanager
def monitoring(folder: Path, service: int, key: str = "") -> Iterator[int]:
    """The real Prometheus, asking the service on a port every four seconds, with the key in `folder`; its own port."""
    if shutil.which("prometheus") is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is missing, and CI must have it")
        pytest.skip("prometheus is not installed")
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    # A scrape may take as long as the interval: on a machine that is busy with other tests more than a second.
    configuration["global"] = {"scrape_interval": "4s", "evaluation_interval": "1s"}
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{service}"]}]
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "metrics-key").write_text(key)
    port = free_port()
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", *options], stdout=log, stderr=log
        )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def prometheus(service: Client, tmp_path: Path) -> Iterator[int]:
    """One that watches the service of the whole suite, which has no keys; its port."""
    with monitoring(tmp_path, service.port) as port:
        yield port


def ask(port: int, query: str) -> list[dict[str, Any]]:
    address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    result: list[dict[str, Any]] = found["data"]["result"]
    return result


def test_a_real_prometheus_answers_the_dashboard_from_a_real_service(service: Client, prometheus: int) -> None:
    picture = encode(colours())
    deadline = time.monotonic() + 120
    # The committed models' cards have no reference: test_drift.py asks those.
    wanted = [concrete(query) for query in dashboard_queries() if "shortcut_reference" not in query]
    # What has figures only where a setting asks for it.
    off = ("cached_answers", "shadow_", "resident", "model_load", "unsure_pictures")
    wanted = [query for query in wanted if not any(name in query for name in off)]
    missing = wanted
    while missing:
        for _ in range(5):
            assert service.post("/classify?model=toy-colours", picture).status == 200
            assert service.post("/classify?model=nobody", picture).status == 404
            assert service.post("/classify?model=toy-colours&min_probability=1", picture).json()["unsure"]
        time.sleep(1)
        try:
            missing = [query for query in wanted if not ask(prometheus, query) and "refused_connections" not in query]
        except OSError:  # it starts
            continue
        finally:
            assert time.monotonic() < deadline, missing
    assert ask(prometheus, 'up{job="shortcut"}')[0]["value"][1] == "1"


def until(port: int, present: str, absent: str) -> None:
    """Waits until one query has an answer while the other has none."""
    deadline = time.monotonic() + 120
    while True:
        try:
            if ask(port, present) and not ask(port, absent):
                return
        except OSError:  # it starts
            pass
        assert time.monotonic() < deadline, (present, absent)
        time.sleep(0.2)


# promtool shows above when each alert fires, and tests/edge/test_keys.py that /metrics asks for a key.
@pytest.mark.thorough
def test_a_refused_key_and_a_service_that_is_gone_are_two_alerts(tmp_path: Path) -> None:
    key, hashed = keys.make()
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "1", "api_keys": hashed}
    up, down, refused = (
        'up{job="shortcut"} == 1 and on (instance) up{job="live"} == 1',
        'ALERTS{alertname="ShortcutDown"}',
        'ALERTS{alertname="ShortcutMetricsRefused"}',
    )
    with running(tmp_path / "service.log", **settings) as guarded, monitoring(tmp_path, guarded.port, key) as port:
        until(port, up, refused)
        (tmp_path / "metrics-key").write_text("not the key")  # Prometheus reads it for each request
        until(port, refused, down)
        (tmp_path / "metrics-key").write_text(key + "\n")
        until(port, up, refused)
        os.kill(guarded.process, signal.SIGTERM)
        until(port, down, refused)


def test_compose_mounts_the_key_where_prometheus_looks_for_it() -> None:
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][0]
    target = f"/etc/prometheus/{scraped['authorization']['credentials_file']}"
    assert (
        f"${{METRICS_KEY_FILE:-./prometheus/metrics-key}}:{target}:ro" in COMPOSE["services"]["prometheus"]["volumes"]
    )
    assert (PROMETHEUS / "metrics-key").read_bytes() == b""  # a key is not committed
