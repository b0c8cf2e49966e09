"""The hostile corpus against the running service: the documented answer every time, and a good one right after."""

import http.client
import re
import socket
from collections.abc import Iterator, Sequence
from typing import TypeVar

import psutil
import pytest

from tests.fixtures.hostile import STATUS, Case, Picture, corpus, pictures
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Answer, Client, assert_failure

Thing = TypeVar("Thing", Case, Picture)
MIB = 1024 * 1024
CASES = corpus()
SEVEN = encode(digit("7"))


def blocks(things: Sequence[Thing], size: int = 20) -> list[Sequence[Thing]]:
    return [things[start : start + size] for start in range(0, len(things), size)]


def fits(answer: Answer, codes: tuple[str, ...]) -> str | None:
    """What is wrong with `answer`, None if nothing is."""
    code = "ok" if answer.status == 200 else answer.json().get("code")
    if code not in codes or STATUS[code] != answer.status:
        return f"{answer.status} {answer.body[:200]!r}, expected {' or '.join(codes)}"
    if code != "ok":
        assert_failure(answer, STATUS[code], code)
    return None


def ask(client: Client, case: Case) -> list[Answer]:
    if case.wire is not None:
        return on_the_wire(client, case.wire)
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.putrequest(case.method, case.path)
    for name, value in case.headers:
        connection.putheader(name, value)
    if case.body is not None:
        connection.putheader("Content-Length", str(len(case.body)))
    try:
        connection.endheaders()
        connection.send(case.body or b"")
    except OSError:  # refused before all of it was read: the answer is there all the same
        pass
    response = connection.getresponse()
    try:
        return [Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())]
    finally:
        connection.close()


def on_the_wire(client: Client, sent: bytes) -> list[Answer]:
    """Every answer that comes until the service closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        try:
            connection.sendall(sent)
            while data := connection.recv(65536):
                received += data
        except ConnectionError:  # closed while there was more to read
            pass
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        answers.append(Answer(int(re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", status)[1]), headers, received[:length]))
        received = received[length:]
    return answers


def still_right(client: Client) -> None:
    answer = client.post("/classify?top_k=1", SEVEN)
    assert (answer.status, answer.json()["predictions"][0]["label"]) == (200, "7")


def processes(client: Client) -> list[psutil.Process]:
    """The service and its workers, found by the port on the command line."""
    for child in psutil.Process().children():
        if str(client.port) in child.cmdline():
            return [child, *child.children(recursive=True)]
    raise AssertionError("the service is no child of this process")


def resident(client: Client) -> int:
    return sum(process.memory_info().rss for process in processes(client))


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case.body for case in corpus()] == [case.body for case in CASES]


@pytest.fixture(scope="module", autouse=True)
def nothing_grows_and_nothing_is_logged(service: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = next(tmp_path_factory.getbasetemp().glob("log*/service.log"))
    still_right(service)
    memory, logged, alive = resident(service), log.stat().st_size, {p.pid for p in processes(service)}
    yield
    assert {p.pid for p in processes(service)} == alive  # no worker died and was replaced
    assert resident(service) - memory < 300 * MIB * len(alive)
    told = log.read_text(errors="replace")[logged:]
    assert len(told) < 10_000, told[:2000]
    for word in ("Traceback", "internal error", "Warning", "smuggled", "jndi", "169.254", "script"):
        assert word not in told


@pytest.mark.parametrize("cases", blocks(CASES), ids=lambda cases: cases[0].name)
def test_every_case_gets_its_documented_answer(service: Client, cases: list[Case]) -> None:
    wrong = {}
    for case in cases:
        answers = ask(service, case)
        faults = [fault for answer in answers if (fault := fits(answer, case.codes))]
        if faults or not 1 <= len(answers) <= case.answers:
            wrong[case.name] = faults or f"{len(answers)} answers, expected {case.answers}"
    assert wrong == {}
    still_right(service)


@pytest.mark.parametrize("some", blocks([p for p in pictures() if not p.costly]), ids=lambda some: some[0].name)
def test_in_a_batch_each_picture_fails_or_is_answered_alone(service: Client, some: list[Picture]) -> None:
    answer = service.post_form("/classify/batch", *(("image", str(i), p.data) for i, p in enumerate(some)))
    assert answer.status == 200, answer
    wrong = {}
    for picture, result in zip(some, answer.json()["results"], strict=True):
        expected = {"filename", "predictions"} if "predictions" in result else {"filename", "error", "code"}
        if result.get("code", "ok") not in picture.codes or result.keys() - {"unsure"} != expected:
            wrong[picture.name] = result
    assert wrong == {}
    still_right(service)


@pytest.mark.parametrize("paths", [2000, pytest.param(10_000, marks=pytest.mark.thorough)])
def test_a_scan_of_thousands_of_paths_adds_no_series_and_no_memory(service: Client, paths: int) -> None:
    def scan(count: int, start: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for number in range(start, start + count):
            connection.request(
                "GET", f"/{('wp', 'models', 'static', 'a/b')[number % 4]}/{number:x}{'x' * (number % 60)}"
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == 404, (response.status, body)
        connection.close()

    for start in range(0, paths // 5, paths // 100):  # on many connections, so that every worker has seen each kind
        scan(paths // 100, start)
    service.get("/metrics")
    series, memory = len(service.get("/metrics").body.splitlines()), resident(service)
    for start in range(paths, 2 * paths, 500):
        scan(500, start)
    assert len(service.get("/metrics").body.splitlines()) == series
    assert resident(service) - memory < 8 * MIB * len(processes(service))
