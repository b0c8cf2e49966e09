"""What probes get beside a load: each is asked on a connection of its own, and what has no 200 in time is missed."""

import socket
from collections.abc import Iterator

import pytest

from benchmarks import attacks, probes
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("probed")
    toy.write_artifact(folder / "models")
    with running_inside(folder / "log", models=str(folder / "models"), default_model="toy-colours") as client:
        yield client


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port on which nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield listening


def test_probes_of_a_service_are_answered(served: Client) -> None:
    found = probes.probe(served.port, 6, every=0, limit=60)
    assert len(found.milliseconds) == 6
    assert not found.missed


def test_what_does_not_answer_is_missed(silent: socket.socket) -> None:
    found = probes.probe(silent.getsockname()[1], 3, every=0, limit=0.05)
    assert found.missed == {"/livez TimeoutError": 2, "/readyz TimeoutError": 1}
    assert str(found).startswith("3 of 3 probes missed (/livez TimeoutError: 2, /readyz TimeoutError: 1); p50 ")


def test_an_answer_that_is_no_200_is_missed(served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PATHS", ("/nowhere",))
    assert probes.probe(served.port, 1, every=0, limit=60).missed == {"/nowhere 404": 1}


def test_the_load_posts_pictures_and_is_counted(served: Client) -> None:
    before = probes.answered(served.port)
    with attacks.attacked(served.port, probes.photos, 2, "/classify", encode(colours())):
        wait_until(
            lambda: (probes.answered(served.port) - before)["200"] > 2, 60, lambda: str(probes.answered(served.port))
        )


def test_held_connections_are_those_of_the_port(silent: socket.socket) -> None:
    port = silent.getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(3)]
    accepted = [silent.accept()[0] for _ in clients]
    assert probes.held(port) == 3
    for connection in (*clients, *accepted):
        connection.close()


def test_figures_are_those_of_the_probes() -> None:
    found = probes.Probes([float(n) for n in range(1, 101)])
    assert str(found) == "0 of 100 probes missed; p50 51 ms, p99 100 ms, slowest 100 ms"


def test_a_model_for_small_pictures_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        probes.main(["--model=digits_cnn-mnist", "--probes=1"])
    assert "digits_cnn-mnist is no model for photos" in capsys.readouterr().err
