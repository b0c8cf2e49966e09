"""The speed of two recipes side by side, at toy size."""

import re

import pytest

from benchmarks.training import main


def test_both_recipes_are_timed_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dense_sum", "--dataset", "mnist", "--images", "256", "--rounds", "1"]) == 0
    notebook, tuned, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"notebook: [\d,]+ images/s, 1\.00 times the notebook's \(median of 1 pairs\)", notebook)
    with pytest.raises(SystemExit):
        main(["resnet9"])  # the notebook does not have it
    assert "resnet9" in capsys.readouterr().err
    assert re.fullmatch(r"tuned, (mixed_bfloat16|float32): [\d,]+ images/s, [\d.]+ times .*", tuned)
