"""What many models cost: the copies are sound models, and the command measures both kinds of service."""

import re
from pathlib import Path

import pytest

from benchmarks import many_models
from benchmarks.servers import SERVING_BIN
from serving import artifacts
from tests.fixtures import toy
from tests.fixtures.server import free_port


def test_copies_are_models_of_their_own(tmp_path: Path) -> None:
    names = many_models.copies(toy.write_artifact(tmp_path), 3, tmp_path / "many")
    found = [artifacts.read(path) for path in artifacts.select(tmp_path / "many")]
    assert [one.name for one in found] == names == ["copy-000", "copy-001", "copy-002"]
    assert len({one.identity for one in found}) == 3


def test_each_row_says_what_was_measured() -> None:
    row = dict.fromkeys(
        (
            *("ready_seconds", "bytes_at_start", "bytes_after", "resident", "first_seconds", "slowest_first_seconds"),
            *("again_seconds", "models_bytes", "models_seconds", "metrics_bytes", "metrics_seconds"),
            "metrics_bytes_at_start",
        ),
        1e6,
    )
    lines = many_models.table({"one": row, "two": row}).splitlines()
    assert lines[0] == "| | one | two |"
    assert "| worker's memory, ready | 1 MB | 1 MB |" in lines
    assert {line.count("|") for line in lines} == {4}


@pytest.mark.thorough
@pytest.mark.skipif(not SERVING_BIN.joinpath("bentoml").exists(), reason="the service's environment is not built")
def test_memory_is_bounded_by_the_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write_artifact(tmp_path, "toy", shape=(64, 64, 3), labels=tuple("abcdefghij"))
    arguments = ["toy", "--models", str(tmp_path), "--number=6", "--resident-bytes=2000000", f"--port={free_port()}"]
    assert many_models.main(arguments) == 0
    row = re.search(r"\| models in memory then \| 1 \| 6 \| (\d+) \|", capsys.readouterr().out)
    assert row is not None
    assert 1 <= int(row[1]) <= 4  # each takes half a megabyte at the least
