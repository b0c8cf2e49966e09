"""`make count` counts every file once, and code as people do."""

import pytest

from benchmarks import lines

SOURCE = '''"""A module.

More of it."""

import os  # why


# a comment
def f() -> str:
    """What it does."""
    return """two
lines"""
'''


def test_code_comments_and_docstrings_are_told_apart() -> None:
    assert lines.count(SOURCE) == lines.Count(code=4, comments=2, docstrings=4)


def test_every_file_is_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    counted = [file for files in lines.rooms().values() for file in files]
    there = [file for half in lines.HALVES for file in (lines.ROOT / half).rglob("*.py")]
    assert sorted(counted) == sorted(there)
    assert lines.main() == 0
    table = capsys.readouterr().out.splitlines()
    rooms = [line.split()[0] for line in table[1:]]
    assert {"serving", "serving/edge", "serving/protocols", "training/data", "study", "tests/edge"} <= set(rooms)
    code = [int(line.split()[2].replace(",", "")) for line in table[1:]]
    assert sum(code[:-1]) == code[-1]
