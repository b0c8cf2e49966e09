"""EfficientNet-Lite0 as its authors built it: its size, its weights, and what it says of two real photos."""

import json
import pickle
import shutil
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from serving.images.picture import decode_image
from tests.fixtures.pictures import encode
from tests.fixtures.server import ROOT, running
from training.networks import legacy_checkpoint
from training.networks.efficientnet_lite0 import pretrained, set_weights
from training.networks.network import build, macs_of
from training.networks.table import NETWORKS

ARTIFACT = ROOT / "models" / "efficientnet_lite0-imagenet" / "1"
LABELS = json.loads((ARTIFACT / "card.json").read_text())["labels"]
SEEN = {"china.jpg": "palace", "flower.jpg": "daisy"}


def photo(name: str) -> np.ndarray:
    picture = encode(Image.fromarray(load_sample_image(name)), "JPEG", quality=95)
    return decode_image(picture, (224, 224, 3), "centre_crop")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    model = build(NETWORKS["efficientnet_lite0"], (224, 224, 3), 1000, "efficientnet_lite0")
    set_weights(model, pretrained(), head=True)
    return model


def test_it_has_the_size_that_its_authors_state(network: keras.Model) -> None:
    assert network.count_params() == 4_694_024  # 4.7 M, with batch norm's averages
    assert 380e6 < macs_of(network) < 407e6  # they count the pooling and the batch norms too


def test_the_stored_weights_and_the_artifact_see_what_is_in_the_photos(network: keras.Model) -> None:
    session = onnxruntime.InferenceSession(ARTIFACT / "model.onnx", providers=["CPUExecutionProvider"])
    for name, label in SEEN.items():
        pixels = photo(name)[None]
        (exact,) = session.run(["probabilities"], {"image": pixels})[0]
        (halved,) = network.predict(pixels / np.float32(255), verbose=0)
        assert LABELS[exact.argmax()] == LABELS[halved.argmax()] == label
        assert np.abs(exact - halved).max() < 0.01  # float16 changes no answer


def test_its_labels_can_be_told_apart() -> None:
    assert len(set(LABELS)) == 1000
    card = json.loads((ARTIFACT / "card.json").read_text())
    assert card["metrics"] is None  # nothing was measured here
    assert card["claimed"]["top1_accuracy"] == 0.751


def test_it_is_served_and_says_over_http_what_is_in_the_photos(tmp_path: Path) -> None:
    name = "efficientnet_lite0-imagenet"
    shutil.copytree(ARTIFACT, tmp_path / "models" / name / "1")
    settings = {"models": str(tmp_path / "models"), "default_model": name, "workers": "1"}
    with running(tmp_path / "log", **settings) as client:
        for file, label in SEEN.items():
            picture = encode(Image.fromarray(load_sample_image(file)), "JPEG", quality=95)
            answer = client.post("/classify", picture).json()
            assert answer["predictions"][0]["label"] == label


def test_the_small_one_is_the_same_network_on_enlarged_pictures(network: keras.Model) -> None:
    small = build(NETWORKS["efficientnet_lite0_small"], (32, 32, 3), 1000, "efficientnet_lite0_small")
    set_weights(small, pretrained(), head=True)
    whole = build(NETWORKS["efficientnet_lite0"], (96, 96, 3), 1000, "efficientnet_lite0")
    set_weights(whole, pretrained(), head=True)
    pictures = np.stack([decode_image(encode(Image.fromarray(load_sample_image(name))), (32, 32, 3)) for name in SEEN])
    pixels = pictures / np.float32(255)
    enlarged = np.asarray(tf.image.resize(pixels, (96, 96)))
    assert np.allclose(small.predict(pixels, verbose=0), whole.predict(enlarged, verbose=0), atol=1e-5)
    still = [layer for layer in small.layers if layer.weights and not layer.trainable]
    assert still
    assert all(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in still)


# Checkpoints of the old kind


class _Storage:
    """Stands where torch.FloatStorage is in a checkpoint."""


def checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch, views: dict[str, tuple[int, Any, Any]]) -> None:
    """Writes what PyTorch before 1.6 wrote of views (offset, shape, strides) of one storage, 0 to 11."""
    torch, utilities = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments: Any) -> None:
        raise AssertionError

    _Storage.__module__, _Storage.__qualname__, _Storage.__name__ = "torch", "FloatStorage", "FloatStorage"
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage, utilities._rebuild_tensor_v2 = _Storage, _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utilities)
    marker = object()

    class Tensor:
        def __init__(self, *view: Any):
            self.view = view

        def __reduce__(self) -> Any:
            return _rebuild_tensor_v2, (marker, *self.view, False, OrderedDict())

    class Writer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", _Storage, "7", "cpu", 12, None) if thing is marker else None

    with path.open("wb") as file:
        for thing in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(thing, file, protocol=2)
        Writer(file, protocol=2).dump(OrderedDict((name, Tensor(*view)) for name, view in views.items()))
        pickle.dump(["7"], file, protocol=2)
        file.write(struct.pack("<q", 12) + np.arange(12, dtype="<f4").tobytes())
    monkeypatch.undo()


def test_views_of_a_storage_are_read_with_their_strides_and_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.pth"
    checkpoint(
        file, monkeypatch, {"whole": (0, (3, 4), (4, 1)), "turned": (0, (4, 3), (1, 4)), "part": (5, (2,), (3,))}
    )
    found = legacy_checkpoint.read(file)
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(found["whole"], whole)
    assert np.array_equal(found["turned"], whole.T)
    assert np.array_equal(found["part"], [5, 8])


def test_a_view_beyond_its_storage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "old.pth"
    checkpoint(file, monkeypatch, {"far": (5, (2, 4), (4, 1))})
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        legacy_checkpoint.read(file)


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("content", [pickle.dumps(_Evil()), b"", b"PK\3\4", pickle.dumps(1) * 5])
def test_what_is_no_checkpoint_of_weights_is_refused_and_never_run(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="no PyTorch checkpoint"):
        legacy_checkpoint.read(tmp_path / "file")
    assert capsys.readouterr().out == ""
