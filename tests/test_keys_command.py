"""`python -m serving.keys`."""

import pytest

from serving import keys
from serving.edge.keys import digest


def test_key_and_its_hash_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main([]) == 0
    key, setting = (line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert setting == f"SHORTCUT_API_KEYS=sha256:{digest(key.encode())}"


@pytest.mark.parametrize("arguments", [["--help"], ["--no-such-option"], ["name"]])
def test_whoever_asks_for_help_gets_no_key(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        keys.main(arguments)
    printed = capsys.readouterr()
    assert "usage: python -m serving.keys" in printed.out + printed.err
    assert "sha256:" not in printed.out + printed.err
