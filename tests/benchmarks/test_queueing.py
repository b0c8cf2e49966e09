"""The simulated queue against what is known of queues, and the command on a served toy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import queueing
from benchmarks.open_loop import moments
from benchmarks.queueing import MOST, Closed, Row, ServiceTimes, predicted, served, simulate


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
    """A batch takes 2 ms and 3 ms an image; reading and answering each takes 1 ms, and the client 4 ms."""
    loops = {1: Closed(1 / 0.010, 1, 0.005), 4: Closed(200.0, 2, 0.008), 32: Closed(16 / 0.066, 16, 0.050)}
    times = ServiceTimes.of(loops, [1.0, 3.0], {})
    assert times.seconds[[1, 2, 32]] == pytest.approx([0.006, 0.010, 0.130])
    assert times.seconds[0] == 0
    assert times.around == pytest.approx(0.004)
    assert times.varies == pytest.approx([0.5, 1.5])
    assert times.capacity == pytest.approx(32 / times.seconds[32])


def test_batches_of_one_size_make_no_line() -> None:
    times = ServiceTimes.of({1: Closed(90.0, 1, 0.01), 2: Closed(100.0, 1.1, 0.0099)}, [1.0], {})
    assert (np.diff(times.seconds) > 0).all()


def test_a_batch_after_a_pause_takes_longer() -> None:
    """0.1 s more after a second's pause; half of that after half a second, and no more after two."""
    loops = {1: Closed(90.0, 1, 0.01), 2: Closed(100.0, 1.1, 0.0099)}
    times = ServiceTimes.of(loops, [0.3], {1.0: [0.4], 0.1: [0.29]})
    assert [times.after_pause(pause, 0.7) for pause in (0.0, 0.1, 0.55, 1.0, 2.0)] == pytest.approx(
        [0, 0, 0.05, 0.1, 0.1]
    )
    steady = replace(fixed(0.01), pauses=times.pauses, extra=times.extra)
    arrivals = np.array([0.0, 0.001, 1.02, 1.025])  # the second waits for the first, the fourth for the third
    assert served(steady, arrivals, np.random.default_rng(0)) == pytest.approx([0.01, 0.019, 0.11, 0.115])


def test_what_is_around_a_batch_delays_nobody_else() -> None:
    times = fixed(0.01)
    arrivals = np.array([0.0, 0.001, 0.5])
    near, far = (served(replace(times, around=around), arrivals, np.random.default_rng(0)) for around in (0.0, 0.2))
    assert near == pytest.approx([0.01, 0.019, 0.01])
    assert far == pytest.approx(near + 0.2)


def test_prediction_is_of_the_requests_that_are_sent() -> None:
    """Without anything that varies it is what a simulation of the same moments says."""
    expected = np.percentile(served(fixed(0.01), np.array(moments(70, 5)), np.random.default_rng(1)), (50, 99))
    assert predicted(fixed(0.01), 70, 5) == pytest.approx(expected)


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
