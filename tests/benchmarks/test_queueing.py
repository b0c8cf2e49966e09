"""The simulated queue against what is known of queues, and the command on a served toy."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import queueing
from benchmarks.queueing import MOST, Row, ServiceTimes, simulate


def fixed(*seconds: float) -> ServiceTimes:
    """Batches of 1, 2, … take these; larger ones as long as the last."""
    whole = np.full(MOST + 1, seconds[-1])
    whole[1 : len(seconds) + 1] = seconds
    return ServiceTimes(whole, np.ones(1))


def test_without_gain_from_batches_it_waits_as_the_formula_says() -> None:
    """M/D/1, by Pollaczek and Khinchine: a mean wait of rho / (2 (1 - rho)) service times. An image of a batch has its
    answer with the last of it, which makes it more; at little load hardly any two meet."""
    times = ServiceTimes(0.01 * np.arange(MOST + 1), np.ones(1))
    latencies = simulate(times, 10, seconds=4000)
    assert latencies.min() == pytest.approx(0.01)
    assert latencies.mean() == pytest.approx(0.01 * (1 + 0.1 / (2 * 0.9)), rel=0.02)


def test_a_batch_that_costs_as_one_image_serves_any_load() -> None:
    latencies = simulate(fixed(0.01), 1500, seconds=20)  # 15 times what one by one would bear
    assert latencies.max() <= 0.02 + 1e-9
    assert latencies.mean() == pytest.approx(0.015, rel=0.02)  # half a batch's time on average until the next begins


def test_workers_share_the_load() -> None:
    times = ServiceTimes(0.01 * np.arange(MOST + 1), np.ones(1))
    assert len(simulate(times, 100, seconds=50, workers=4)) == pytest.approx(5000, rel=0.1)
    one, four = (np.percentile(simulate(times, 60 * n, seconds=200, workers=n), 99) for n in (1, 4))
    assert four == pytest.approx(one, rel=0.15)


def test_what_varies_makes_the_tail() -> None:
    steady = fixed(0.01)
    jumpy = ServiceTimes(steady.seconds, np.array([0.5] * 9 + [5.5]))
    assert np.percentile(simulate(jumpy, 5), 99) > 3 * np.percentile(simulate(steady, 5), 99)


def test_service_times_of_closed_loops() -> None:
    times = ServiceTimes.of({1: 100.0, 2: 100.0, 32: 400.0}, [1.0, 3.0])
    assert times.seconds[[0, 1, 2, 32]] == pytest.approx([0.01, 0.01, 0.02, 0.08])
    assert (np.diff(times.seconds) >= 0).all()
    assert times.varies == pytest.approx([0.5, 1.5])
    assert times.capacity == pytest.approx(400)


def test_row_says_how_far_off_it_is() -> None:
    row = Row(50.0, 1.0, 10.0, 9.0, 12.0, 1.1, 8.0, 0.1)
    assert "| 50 | 50% | 1.00 ms | 1.10 ms | 10.00 ms (9.00 to 12.00) | 8.00 ms | -20% |" in queueing.table(
        [row], 100.0
    )


@pytest.mark.parametrize("wrong", ["--shares=2", "--shares=x", "--rounds=0"])
def test_wrong_arguments_are_told(wrong: str) -> None:
    with pytest.raises(SystemExit):
        queueing.main([wrong])


def test_missing_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert queueing.main(["nobody", "--models", str(tmp_path)]) == 1
    assert "no such model" in capsys.readouterr().err
