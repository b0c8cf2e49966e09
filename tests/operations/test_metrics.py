import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.operations import metrics
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import ROOT, Client, command, environment, free_port, running

PROGRAM = """
import time
from serving.operations import metrics as telemetry
for _ in range(3):
    telemetry.finished("/classify", 200, time.perf_counter() - 0.004, "id")
telemetry.finished("unknown", 404, time.perf_counter() - 0.001, "id")
print(telemetry.exposition().decode())
"""


def run(folder: Path | None) -> list[str]:
    shared = {} if folder is None else {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment() | shared,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_requests_are_counted_by_route_and_status() -> None:
    lines = run(None)
    assert 'shortcut_requests_total{protocol="native",route="/classify",status="200"} 3.0' in lines
    assert 'shortcut_requests_total{protocol="native",route="unknown",status="404"} 1.0' in lines
    assert 'shortcut_request_seconds_bucket{le="0.005",protocol="native",route="/classify"} 3.0' in lines


def test_processes_that_share_a_folder_are_summed(tmp_path: Path) -> None:
    run(tmp_path)
    assert 'shortcut_requests_total{protocol="native",route="/classify",status="200"} 6.0' in run(tmp_path)


def test_a_file_that_a_worker_has_just_made_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "counter_99999.db").touch()
    assert 'shortcut_requests_total{protocol="native",route="/classify",status="200"} 3.0' in run(tmp_path)


def expect(client: Client, *lines: str) -> str:
    """The exposition, once it has all lines: another worker's figures come a moment later."""
    deadline = time.monotonic() + 60
    while True:
        text = client.get("/metrics").body.decode()
        missing = [line for line in lines if line not in text.splitlines()]
        if not missing:
            return text
        assert time.monotonic() < deadline, (missing, text)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """A service with everything switched on, and its log."""
    folder = tmp_path_factory.mktemp("observed")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "workers": "2", "provider": "cpu"}
    os.environ["OTEL_TRACES_EXPORTER"] = "console"
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"
    try:
        settings |= {"log_format": "json", "access_log": "without_probes", "deadline_ms": "5000"}
        with running(folder / "log", **settings) as client:
            yield client, folder / "log"
    finally:
        del os.environ["OTEL_TRACES_EXPORTER"], os.environ["OTEL_BSP_SCHEDULE_DELAY"]


def test_an_operator_sees_where_time_goes_and_what_is_loaded(observed: tuple[Client, Path]) -> None:
    client, _ = observed
    for _ in range(3):
        assert client.post("/classify", encode(colours())).status == 200
    of = 'model="toy-colours",version="1"'
    text = expect(
        client,
        f"shortcut_decode_seconds_count{{{of}}} 3.0",
        f"shortcut_queue_seconds_count{{{of}}} 3.0",
        f"shortcut_compute_seconds_count{{{of}}} 3.0",
        f'shortcut_batch_images_bucket{{le="1.0",{of}}} 3.0',
        f"shortcut_queue_images{{{of}}} 0.0",
        f"shortcut_queue_room_images{{{of}}} 1024.0",  # of both workers
        'shortcut_requests_total{protocol="native",route="/classify",status="500"} 0.0',
        'shortcut_model_workers{model="toy-colours",precision="float32",provider="CPUExecutionProvider",version="1"} '
        "2.0",
    )
    assert "shortcut_rejected_images_total" in text
    assert "shortcut_expired_images_total" in text


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2_Z", True), ("", False), ("a b", False), ("x" * 65, False), ("<script>", False)]
)
@pytest.mark.parametrize("path", ["/classify", "/classify/batch", "/nowhere"])
def test_every_answer_has_a_request_id(observed: tuple[Client, Path], path: str, sent: str, kept: bool) -> None:
    client, _ = observed
    answer = client.request("POST", path, encode(colours()), {"X-Request-Id": sent} if sent else {})
    assert (answer.headers["x-request-id"] == sent) == kept
    assert re.fullmatch("[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])


def test_the_log_is_json_and_names_each_request(observed: tuple[Client, Path]) -> None:
    client, log = observed
    client.request("POST", "/classify", encode(colours()), {"X-Request-Id": "find-me"})
    client.request("POST", "/classify", b"junk", {"X-Request-Id": "find-me-too"})
    named: dict[str, dict[str, object]] = {}
    deadline = time.monotonic() + 60
    while not named.keys() >= {"find-me", "find-me-too"}:  # the line follows the answer
        assert time.monotonic() < deadline, named
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"time"')]
        named = {line["request_id"]: line for line in lines if "request_id" in line}
    good, bad = named["find-me"], named["find-me-too"]
    assert (good["status"], bad["status"]) == (200, 400)
    assert good.keys() >= {"level", "message", "route", "seconds", "decode_seconds", "queue_seconds", "compute_seconds"}


def test_only_successful_probes_are_left_out_of_the_log(observed: tuple[Client, Path]) -> None:
    client, log = observed
    asked = [("GET", "/livez"), ("GET", "/readyz"), ("GET", "/healthz"), ("POST", "/livez"), ("GET", "/models")]
    connection = client.connection()  # one for all: the same worker writes their lines, in their order
    statuses = {}
    for method, path in asked:
        connection.request(method, path, headers={"X-Request-Id": f"{method}-{path[1:]}-probed"})
        response = connection.getresponse()
        response.read()
        statuses[f"{method}-{path[1:]}-probed"] = response.status
    connection.close()
    assert list(statuses.values()) == [200, 200, 200, 405, 200]
    deadline = time.monotonic() + 60
    named: set[str] = set()
    while "GET-models-probed" not in named:  # the line follows the answer
        assert time.monotonic() < deadline, named
        time.sleep(0.1)
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"time"')]
        named = {line.get("request_id") for line in lines}  # spans name probes too
    assert named & statuses.keys() == {"POST-livez-probed", "GET-models-probed"}


def test_probes_are_in_the_log_where_all_requests_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "detailed", True)
    caplog.set_level(logging.INFO, metrics.access_log.name)
    for quiet in (set[str](), {"/livez"}):
        monkeypatch.setattr(metrics, "_quiet", quiet)
        metrics.finished("/livez", 200, time.perf_counter(), "asked")
    assert [record.getMessage() for record in caplog.records] == ["/livez 200"]


def test_spans_are_exported_where_an_exporter_is_configured(observed: tuple[Client, Path]) -> None:
    client, log = observed
    client.request("POST", "/classify", encode(colours()), {"X-Request-Id": "traced"})
    deadline = time.monotonic() + 60
    while '"traced"' not in (text := log.read_text()) or text.count('"name": "compute"') < 1:
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    spans = re.findall(r'^    "name": "(.+)",$', text, re.M)
    assert {"/classify", "decode", "queue", "compute"} <= set(spans)


def test_two_services_have_metrics_of_their_own(service: Client, observed: tuple[Client, Path]) -> None:
    batches = 'shortcut_requests_total{protocol="native",route="/classify/batch",status="200"} '

    def counted(client: Client) -> str:
        return client.get("/metrics").body.decode().partition(batches)[2].partition("\n")[0]

    before = counted(service)
    for _ in range(4):  # only this test and the next send a batch that is answered to this one
        assert observed[0].post_form("/classify/batch", ("image", "a.png", encode(colours()))).status == 200
    expect(observed[0], f"{batches}4.0")
    assert counted(service) == before


LAST = """
import time
from serving.operations import tracing

tracing.start()
now = time.perf_counter()
tracing.record("/classify", now - 1, now, {}, [("compute", now - 1, now)])
print("stops", flush=True)
tracing.stop()
"""


def test_last_spans_are_sent_when_it_stops() -> None:
    printed = traced(LAST, OTEL_TRACES_EXPORTER="console", OTEL_BSP_SCHEDULE_DELAY="60000").stdout
    before, _, after = printed.partition("stops\n")
    assert before == ""
    assert '"name": "compute"' in after


def test_an_exporter_that_is_not_there_is_named() -> None:
    done = traced("from serving.operations import tracing; tracing.start()", OTEL_TRACES_EXPORTER="x")
    assert done.returncode != 0
    assert "StartError: OTEL_TRACES_EXPORTER=x: must be" in done.stderr


def traced(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True, check=False)


# The three tests above show both with no service that is started for it.
@pytest.mark.thorough
def test_a_second_service_leaves_the_metrics_of_the_first_alone(
    observed: tuple[Client, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its last spans are sent when it stops."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "1"}
    first, _ = observed
    batches = 'shortcut_requests_total{protocol="native",route="/classify/batch",status="200"} '
    before = float(first.get("/metrics").body.decode().partition(batches)[2].partition("\n")[0] or 0)
    for _ in range(4):  # only this test and the one above send a batch that is answered
        assert first.post_form("/classify/batch", ("image", "a.png", encode(colours()))).status == 200
    with running(tmp_path / "log", **settings) as second:
        assert '"/classify/batch",status="200"' not in second.get("/metrics").body.decode()
        assert second.post("/classify", encode(colours())).status == 200
        assert '"name": "compute"' not in (tmp_path / "log").read_text()
    assert '"name": "compute"' in (tmp_path / "log").read_text()
    expect(first, f"{batches}{before + 4}")


@pytest.mark.thorough  # the start of a service is one of test_start.py's
def test_an_exporter_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    done = subprocess.run(
        command(free_port()),
        cwd=ROOT,
        env=environment(models=str(tmp_path / "models"), default_model="toy-colours") | {"OTEL_TRACES_EXPORTER": "x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "error: OTEL_TRACES_EXPORTER=x" in done.stdout + done.stderr


RETIRED = """
from serving.operations import metrics, tallies

class Queue(list):
    room = 1

meter = metrics.Meter("m", 1)
meter.loaded("cpu", "float32", Queue())
meter.retired()
meter.computed(3, 0.01)
meter.rejected(2)
print(metrics.exposition().decode())
"""


def test_what_a_retired_version_still_answers_is_counted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RETIRED], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert 'shortcut_batch_images_count{model="m",version="1"} 1.0' in done.stdout
    assert 'shortcut_rejected_images_total{model="m",version="1"} 2.0' in done.stdout


# What happens in one process, in a process of its own: prometheus_client's figures are global

PRELUDE = """
import threading
from serving.operations import metrics, tallies

class Queue(list):
    room = 7

def line(text):
    print(*[found for found in metrics.exposition().decode().splitlines() if found.startswith(text)], sep=chr(10))
"""


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_version_changed_in_place_keeps_its_gauges() -> None:
    """The new one is served before the old one retires, under the same labels."""
    lines = printed(
        """
old, new = metrics.Meter("m", 1), metrics.Meter("m", 1)
old.loaded("cpu", "float32", Queue())
new.loaded("cpu", "float32", Queue([1]), measuring=True)
old.moved("openvino", "bf16", measuring=False)  # by a thread that had begun before
old.retired()
for name in ("measuring", "workers"):
    line(f"shortcut_model_{name}{{")
line("shortcut_queue_")
new.retired()
line("shortcut_model_measuring{")
"""
    )
    assert 'shortcut_model_measuring{model="m",version="1"} 1.0' in lines
    assert 'shortcut_model_workers{model="m",precision="float32",provider="cpu",version="1"} 1.0' in lines
    assert 'shortcut_queue_images{model="m",version="1"} 1.0' in lines
    assert 'shortcut_queue_room_images{model="m",version="1"} 7.0' in lines
    assert lines[-1] == 'shortcut_model_measuring{model="m",version="1"} 0.0'


def test_failed_batches_are_counted_from_any_thread() -> None:
    lines = printed(
        """
meter = metrics.Meter("m", 1)
def fail():
    for _ in range(2000):
        meter.failed()
threads = [threading.Thread(target=fail) for _ in range(4)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    tallies.flush()
line("shortcut_failed_batches_total")
"""
    )
    assert lines == ['shortcut_failed_batches_total{model="m",version="1"} 8000.0']


def test_what_a_model_answers_is_counted_beside_its_reference() -> None:
    lines = printed(
        """
reference = {"labels": {"a": 0.75, "b": 0.25}, "probability": {"0.5": 0.1, "1": 1.0}, "unfamiliarity": {"1": 0.95}}
meter = metrics.Meter("m", 1, ("a", "b", "c"), reference, unfamiliar_from=4.0)
meter.loaded("cpu", "float32", Queue())
meter.answered(0, 0.93, 2.0)
meter.answered(0, 0.45, 6.0)
meter.answered(1, 1.0, None)
line("shortcut_predicted_labels_total")
line("shortcut_reference")
line('shortcut_top_probability_bucket{le="0.5"')
line('shortcut_top_probability_bucket{le="1.0"')
line('shortcut_unfamiliarity_bucket{le="0.5"')
line("shortcut_unfamiliarity_count")
"""
    )
    of = 'model="m",version="1"'
    assert lines == [
        f'shortcut_predicted_labels_total{{label="a",{of}}} 2.0',
        f'shortcut_predicted_labels_total{{label="b",{of}}} 1.0',
        f'shortcut_predicted_labels_total{{label="c",{of}}} 0.0',
        f'shortcut_reference_label_share{{label="a",{of}}} 0.75',
        f'shortcut_reference_label_share{{label="b",{of}}} 0.25',
        f'shortcut_reference_label_share{{label="c",{of}}} 0.0',
        f'shortcut_reference_probability_share{{le="0.5",{of}}} 0.1',
        f'shortcut_reference_probability_share{{le="1.0",{of}}} 1.0',
        f'shortcut_reference_unfamiliarity_share{{le="1.0",{of}}} 0.95',
        f'shortcut_top_probability_bucket{{le="0.5",{of}}} 1.0',
        f'shortcut_top_probability_bucket{{le="1.0",{of}}} 3.0',
        f'shortcut_unfamiliarity_bucket{{le="0.5",{of}}} 1.0',
        f"shortcut_unfamiliarity_count{{{of}}} 2.0",
    ]


@pytest.mark.parametrize(
    "reference", ["5", "[1]", "{'labels': [1]}", "{'labels': {'a': 'b'}, 'probability': {'x': 1}}"]
)
def test_a_reference_that_is_none_is_left_out(reference: str) -> None:
    lines = printed(
        f"""
meter = metrics.Meter("m", 1, ("a", "b"), {reference})
meter.loaded("cpu", "float32", Queue())
meter.answered(0, 0.5)
line("shortcut_reference")
line("shortcut_top_probability_count")
"""
    )
    assert [line for line in lines if line] == ['shortcut_top_probability_count{model="m",version="1"} 1.0']


def test_a_thousand_classes_have_a_hundred_series() -> None:
    lines = printed(
        """
labels = [f"class {number}" for number in range(1000)]
meter = metrics.Meter("m", 1, labels, {"labels": {label: 0.001 for label in labels}})
meter.loaded("cpu", "float32", Queue())
for index in (0, 98, 99, 999):
    meter.answered(index, 0.5)
line("shortcut_predicted_labels_total")
line('shortcut_reference_label_share{label="other"')
"""
    )
    assert len(lines) == 101
    assert 'shortcut_predicted_labels_total{label="class 98",model="m",version="1"} 1.0' in lines
    assert 'shortcut_predicted_labels_total{label="other",model="m",version="1"} 2.0' in lines
    assert float(lines[-1].split()[-1]) == pytest.approx(0.901)


def test_no_figure_opens_its_file_before_the_folder_is_known() -> None:
    """What has no label would, at the import, and take all of its kind with it."""
    from serving.operations import metrics

    kinds = (metrics.Gauge, metrics.Counter, metrics.Histogram)
    figures = [value for value in vars(metrics).values() if isinstance(value, kinds)]
    assert figures
    assert not [figure._name for figure in figures if not figure._labelnames]
