"""What the processes of a service share, and who may end the parent."""

import os
import signal
from pathlib import Path

import pytest

from serving.operations import shared


@pytest.mark.parametrize(("beside", "ends"), [(0, True), (-1, False), (1, False)])
def test_a_worker_ends_its_own_parent_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: int, ends: bool
) -> None:
    """Whoever has taken the parent's place after it died is left alone."""
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: ended.append((process, number)))
    monkeypatch.setattr(shared, "folder", lambda: tmp_path)
    (tmp_path / "parent").write_text(str(os.getppid() + beside))
    shared.stop_service()
    assert ended == ([(os.getppid(), signal.SIGTERM)] if ends else [])
