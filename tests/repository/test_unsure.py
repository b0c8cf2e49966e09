"""Pictures whose answer was unsure: kept under names that no client chose, bounded, in nobody's way, and trained on."""

import asyncio
import base64
import hashlib
import json
import logging
import queue
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving import artifacts
from serving.engine.measurements import Measurements
from serving.errors import StartError
from serving.operations import metrics
from serving.repository import unsure
from serving.repository.answers import Answer
from serving.repository.many import predict_many
from serving.repository.models import Repository
from serving.repository.unsure import BLOCK, LEDGER, LONGEST, UnsurePictures, folder_name
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import encode, grey
from tests.fixtures.server import Client, wait_until
from training.data.loading import load

BRIGHT = encode(grey(200, (8, 8)))  # unfamiliar to the toy
DARK = encode(grey(20, (8, 8)))
LABELS = ("cat/dog", "..", "blue")


def counts(model: str) -> dict[str, float]:
    """What was counted of a model, by result."""
    found = {}
    for result in ("kept", "known", "full", "dropped", "failed"):
        found[result] = metrics._UNSURE_PICTURES.labels(model, result)._value.get()
    return found


class Counted:
    """What was counted since it was made."""

    def __init__(self, model: str):
        self._model, self._before = model, counts(model)

    def now(self) -> dict[str, float]:
        after = counts(self._model)
        return {name: n - self._before[name] for name, n in after.items() if n != self._before[name]}

    def becomes(self, **expected: float) -> None:
        wait_until(lambda: sum(self.now().values()) >= sum(expected.values()), 60, lambda: str(self.now()))
        assert self.now() == expected


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LEDGER)


def named(data: bytes, ending: str = "png") -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{ending}"


def answered(data: bytes, model: str = "toy", label: str = "blue") -> unsure._Picture:
    return unsure._Picture(model, label, data)


@pytest.fixture
def keeper(tmp_path: Path) -> UnsurePictures:
    return UnsurePictures(tmp_path / "kept", 100 * BLOCK)


# Names


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        ("golden retriever", "golden retriever"),
        ("Käse, 7 日本", "Käse, 7 日本"),
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a/b\\c", "a%2Fb%5Cc"),
        ("a%2Fb", "a%252Fb"),
        ("a\nb\0", "a%0Ab%00"),
        ("e\u0301", "e%CC%81"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_label_becomes_safe_folder_name(label: str, name: str) -> None:
    assert folder_name(label) == name


def test_long_labels_are_cut_and_stay_apart() -> None:
    first, second = (folder_name("日" * 400 + end) for end in "ab")
    assert first != second
    assert max(len(first.encode()), len(second.encode())) <= LONGEST
    assert folder_name(first) != first  # nor is a short label ever called so


_LABELS = st.text(st.characters() | st.sampled_from("./%~\\e\u0301é"), max_size=200)


@given(_LABELS, _LABELS)
def test_names_are_safe_and_never_the_same(one: str, other: str) -> None:
    name = folder_name(one)
    assert name not in ("", ".", "..")
    assert not name.startswith(".")
    assert not set(name) & set("/\\\0\n")
    assert len(name.encode()) <= LONGEST
    if one != other:
        assert unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", folder_name(other))


# The folder


def test_files_and_folders_are_for_their_owner_alone(keeper: UnsurePictures, tmp_path: Path) -> None:
    assert keeper._keep(answered(BRIGHT)) == "kept"
    kept = tmp_path / "kept" / "toy" / "blue" / named(BRIGHT)
    assert kept.read_bytes() == BRIGHT
    assert kept.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in list(kept.parents)[:3]} == {0o700}


@pytest.mark.parametrize(
    ("form", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("WEBP", "webp")]
)
def test_ending_is_of_the_format(keeper: UnsurePictures, tmp_path: Path, form: str, ending: str) -> None:
    data = encode(grey(200), form)
    keeper._keep(answered(data))
    assert files(tmp_path) == [f"kept/toy/blue/{named(data, ending)}"]


def test_picture_is_kept_once_also_where_somebody_has_sorted_it(keeper: UnsurePictures, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "toy"
    assert [keeper._keep(answered(BRIGHT)) for _ in range(2)] == ["kept", "known"]
    (folder / "new class").mkdir()
    (folder / "blue" / named(BRIGHT)).rename(folder / "new class" / named(BRIGHT))
    assert keeper._keep(answered(BRIGHT)) == "known"
    assert keeper._keep(answered(BRIGHT, model="another")) == "kept"
    assert files(folder) == [f"new class/{named(BRIGHT)}"]


def test_bound_holds_over_workers_and_there_is_room_after_sorting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [UnsurePictures(tmp_path, 5 * BLOCK) for _ in range(3)]
    pictures = [encode(grey(level)) for level in range(12)]
    results: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work(worker: UnsurePictures, mine: list[bytes]) -> None:
        for data in mine:
            results.put(worker._keep(answered(data)))

    threads = [threading.Thread(target=work, args=(one, pictures[i::3])) for i, one in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = [results.get() for _ in pictures]
    assert (found.count("kept"), found.count("full")) == (5, 7)
    assert len(files(tmp_path)) == 5
    full = [record for record in caplog.records if "is full" in record.message]
    assert 1 <= len(full) <= 3  # once of each worker that has noticed

    for name in files(tmp_path):
        (tmp_path / name).unlink()
    assert workers[0]._keep(answered(BRIGHT)) == "full"  # it has looked a moment ago
    monkeypatch.setattr(unsure, "LOOK_SECONDS", 0.0)
    assert workers[0]._keep(answered(BRIGHT)) == "kept"


def test_what_lies_there_at_the_start_counts(tmp_path: Path) -> None:
    (tmp_path / "toy" / "blue").mkdir(parents=True)
    (tmp_path / "toy" / "blue" / "of last week.png").write_bytes(bytes(2 * BLOCK))
    (tmp_path / "toy" / "blue" / ".left.png.part").write_bytes(bytes(9 * BLOCK))  # by a worker that was killed
    (tmp_path / LEDGER).write_text("nonsense")
    keeper = UnsurePictures(tmp_path, 3 * BLOCK)
    assert [keeper._keep(answered(data)) for data in (BRIGHT, DARK)] == ["kept", "full"]
    assert not (tmp_path / "toy" / "blue" / ".left.png.part").exists()


def test_nothing_half_written_stays_where_the_disk_fails(
    keeper: UnsurePictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space left"):
        keeper._keep(answered(BRIGHT))
    assert files(tmp_path) == []


def test_folder_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    (tmp_path / "file").write_text("")
    settings = Settings(
        models=tmp_path / "models",
        default_model="toy-colours",
        provider="cpu",
        cache=tmp_path,
        unsure_pictures=tmp_path / "file" / "kept",
    )
    with pytest.raises(
        StartError, match=r"^SHORTCUT_UNSURE_PICTURES=.*/file/kept: cannot be written: Not a directory$"
    ):
        Repository(settings, 1, Measurements(tmp_path))


# In nobody's way


def ask(keeper: UnsurePictures, served_answer: Answer, data: bytes) -> list[object]:
    told: list[object] = []
    keeper.after(told.append, data, None)(served_answer)
    return told


@pytest.fixture
def an_answer(tmp_path: Path) -> Callable[[str], Answer]:
    """Of a model that is called so, and unsure."""

    def make(name: str) -> Answer:
        artifact = artifacts.read(toy.write_artifact(tmp_path / "models", name))
        return Answer(artifact, np.array([0.1, 0.2, 0.7], np.float32), 2.0, "unfamiliar", np.zeros((8, 8, 3), np.uint8))

    return make


def test_slow_disk_drops_and_delays_nobody(
    keeper: UnsurePictures, an_answer: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    may, writes = threading.Event(), threading.Event()

    def slow(picture: unsure._Picture) -> str:
        writes.set()
        assert may.wait(60)
        return "kept"

    monkeypatch.setattr(keeper, "_keep", slow)
    answer, counted = an_answer("toy-slow"), Counted("toy-slow")
    assert ask(keeper, answer, BRIGHT) == [answer]
    assert writes.wait(60)
    for _ in range(unsure.MOST_WAITING + 3):
        assert ask(keeper, answer, BRIGHT) == [answer]
    assert counted.now() == {"dropped": 3}
    may.set()
    counted.becomes(kept=unsure.MOST_WAITING + 1, dropped=3)
    monkeypatch.setattr(unsure, "MOST_WAITING_BYTES", len(BRIGHT))
    may.clear()
    writes.clear()
    ask(keeper, answer, BRIGHT)
    ask(keeper, answer, BRIGHT)  # the first one's bytes are still held
    assert counted.now()["dropped"] == 4
    may.set()
    counted.becomes(kept=unsure.MOST_WAITING + 2, dropped=4)


def test_disk_errors_are_counted_and_logged_once_a_minute(
    keeper: UnsurePictures,
    an_answer: Callable[[str], Answer],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    answer, counted = an_answer("toy-broken"), Counted("toy-broken")
    (tmp_path / "kept" / "toy-broken").write_text("in the way")
    for level in range(5):
        assert ask(keeper, answer, encode(grey(level))) == [answer]
    counted.becomes(failed=5)
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["cannot be kept" in record.message for record in said] == [True]
    (tmp_path / "kept" / "toy-broken").unlink()
    ask(keeper, answer, BRIGHT)
    counted.becomes(failed=5, kept=1)


def test_nothing_is_kept_or_asked_where_the_setting_is_off(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models", unfamiliar_from=0.5)
    settings = Settings(models=tmp_path / "models", default_model="toy-colours", provider="cpu", cache=tmp_path)
    served, before = Repository(settings, 1, Measurements(tmp_path)).find(), set(threading.enumerate())
    assert asyncio.run(served.answer(BRIGHT)).doubt == "unfamiliar"
    assert served._unsure is None
    assert "unsure" not in {thread.name for thread in set(threading.enumerate()) - before}
    assert counts("toy-colours") == dict.fromkeys(counts("toy-colours"), 0)


# Through HTTP


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    folder = tmp_path_factory.mktemp("unsure")
    toy.write_artifact(folder / "models", "toy-kept", labels=LABELS, unfamiliar_from=0.5)
    settings = {"models": str(folder / "models"), "default_model": "toy-kept", "protocols": "all"}
    with running_inside(folder / "log", **settings, unsure_pictures=str(folder / "kept")) as client:
        yield client, folder / "kept"


def sent(client: Client, way: str, data: bytes) -> None:
    """Ask about the picture in one way of asking; the answer is unsure."""
    coded = base64.b64encode(data).decode()
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [coded],
        "parameters": {"content_type": "b64"},
    }
    if way == "body":
        answer = client.request("POST", "/classify", data, {"X-Request-Id": "../../y", "Content-Type": "image/gif"})
    elif way == "form":
        answer = client.post_form("/classify", ("image", "../../x", data))
    elif way == "batch":
        answer = client.post_form("/classify/batch", ("image", "../../x.gif", data), ("image", "/etc/x", b"none"))
    elif way == "explain":
        answer = client.post("/classify?explain=1", data)
    elif way == "tensorflow":
        answer = client.post("/v1/models/toy-kept:predict", json.dumps({"instances": [{"b64": coded}]}).encode())
    elif way == "open inference":
        answer = client.post("/v2/models/toy-kept/infer", json.dumps({"inputs": [tensor]}).encode(), "application/json")
    else:
        answer = client.post("/hf/toy-kept", json.dumps({"inputs": coded}).encode(), "application/json")
    assert answer.status == 200, answer.body
    assert b"unfamiliar" in answer.body or "x-unsure" in answer.headers


WAYS = ("body", "form", "batch", "explain", "tensorflow", "open inference", "hugging face")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_asking_keeps_the_picture(service: tuple[Client, Path], way: str) -> None:
    client, folder = service
    data = encode(grey(230 - WAYS.index(way), (8, 8)))
    before, counted = files(folder), Counted("toy-kept")
    sent(client, way, data)
    counted.becomes(kept=1)
    (new,) = set(files(folder)) - set(before)
    model, label, name = Path(new).parts
    assert (model, name) == ("toy-kept", named(data))
    assert label in [folder_name(one) for one in LABELS]
    assert files(folder.parent / "kept") == sorted([*before, new])
    sent(client, "body", data)
    counted.becomes(kept=1, known=1)


def test_label_is_the_one_that_was_answered(service: tuple[Client, Path]) -> None:
    client, folder = service
    data = encode(Image.fromarray(np.random.default_rng(3).integers(128, 256, (200, 200, 3), dtype=np.uint8)), "JPEG")
    counted = Counted("toy-kept")
    answer = client.post("/classify", data).json()  # on a decoder's thread
    assert answer["unsure"] == "unfamiliar"
    counted.becomes(kept=1)
    label = folder_name(answer["predictions"][0]["label"])
    assert (folder / "toy-kept" / label / named(data, "jpg")).read_bytes() == data


def test_low_probability_is_kept_and_what_is_sure_is_not(service: tuple[Client, Path]) -> None:
    client, folder = service
    counted, data = Counted("toy-kept"), encode(grey(30, (8, 8)))
    assert "unsure" not in client.post("/classify", data).json()
    assert client.post("/classify", b"no picture").status == 400
    assert client.post("/classify?min_probability=1", data).json()["unsure"] == "low_probability"
    counted.becomes(kept=1)
    assert any(name.endswith(named(data)) for name in files(folder))


def test_arrays_are_not_kept(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models", "toy-arrays", unfamiliar_from=0.5)
    settings = Settings(
        models=tmp_path / "models",
        default_model="toy-arrays",
        provider="cpu",
        cache=tmp_path,
        unsure_pictures=tmp_path / "kept",
    )
    served, counted = Repository(settings, 1, Measurements(tmp_path)).find(), Counted("toy-arrays")
    arrays = np.full((3, 8, 8, 3), 200, np.uint8)

    async def scenario() -> None:
        answers = await predict_many(served, arrays, partial=False)
        assert [one.doubt for one in answers] == ["unfamiliar"] * 3
        await served.answer(BRIGHT)

    asyncio.run(scenario())
    counted.becomes(kept=1)  # they would have been written before it


# The loop is closed


def test_training_takes_the_sorted_folder(keeper: UnsurePictures, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [encode(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for _ in range(12)]
    for data in pictures:
        assert keeper._keep(answered(data, label="cat/dog")) == "kept"
    folder = tmp_path / "kept" / "toy"
    (folder / "new class").mkdir()
    for data in pictures[::2]:
        (folder / "cat%2Fdog" / named(data)).rename(folder / "new class" / named(data))
    (folder / "new class" / ".half.png.part").write_bytes(b"half")  # a worker is writing
    data = load(data=folder, strict=True)
    assert data.labels == ("cat%2Fdog", "new class")
    assert np.bincount(np.concatenate([data.y_train, data.y_test])).tolist() == [6, 6]
    assert data.notes == ()
    assert not data.groups
