import subprocess
import sys
from pathlib import Path

from tests import toy
from tests.pictures import colours, encode
from tests.server import ROOT, environment, running

PROGRAM = """
from serving import telemetry
for _ in range(3):
    telemetry.observe("/classify", 200, 0.004)
telemetry.observe("unknown", 404, 0.001)
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
    assert 'shortcut_requests_total{route="/classify",status="200"} 3.0' in lines
    assert 'shortcut_requests_total{route="unknown",status="404"} 1.0' in lines
    assert 'shortcut_request_seconds_bucket{le="0.005",route="/classify"} 3.0' in lines


def test_processes_that_share_a_folder_are_summed(tmp_path: Path) -> None:
    run(tmp_path)
    assert 'shortcut_requests_total{route="/classify",status="200"} 6.0' in run(tmp_path)


def test_a_second_service_leaves_the_metrics_of_the_first_alone(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "2"}
    with running(tmp_path / "first.log", **settings) as first:
        for _ in range(4):
            assert first.post("/classify", encode(colours())).status == 200
        with running(tmp_path / "second.log", **settings) as second:
            assert '"/classify",status="200"' not in second.get("/metrics").body.decode()
        assert 'shortcut_requests_total{route="/classify",status="200"} 4.0' in first.get("/metrics").body.decode()
