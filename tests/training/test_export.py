"""Publishing: what an artifact holds, that its three forms agree, and that a refused one leaves nothing behind."""

import hashlib
import json
import resource
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from training.artifact import publishing as module
from training.artifact.graph import ExportError
from training.artifact.publishing import export
from training.artifact.versions import publish as publish_folder
from training.export import main

pytestmark = pytest.mark.usefixtures(
    "exported_cheaply"
)  # all but the fixture `artifact`, which is exported as users do

LABELS = ("red", "green", "blue", "grey", "black", "white")
SHAPE = (8, 6, 3)


def linear(
    shape: tuple[int | None, ...] = SHAPE, classes: int = len(LABELS), activation: str = "softmax"
) -> keras.Model:
    """softmax(x @ weights): answers that numpy can check."""
    keras.utils.set_random_seed(1)
    dense = layers.Dense(classes, activation=activation, kernel_initializer="random_normal")
    model = keras.Sequential([layers.Input(shape), layers.Flatten(), dense])
    dense.set_weights([40 * w for w in dense.get_weights()])
    return model


def by_hand(model: keras.Model, images: np.ndarray, scale: float = 1 / 255) -> np.ndarray:
    """The linear model's probabilities for (N, H, W, C) uint8."""
    weights, bias = model.layers[-1].get_weights()
    e = np.exp(images.reshape(len(images), -1) * np.float64(scale) @ weights + bias)
    return e / e.sum(axis=1, keepdims=True)


def noise(shape: tuple[int, ...] = SHAPE, count: int = 5) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, *shape), dtype=np.uint8)


def onnx_answers(folder: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images})[0]


def published(output: Path, model: keras.Model | None = None, **options: Any) -> Path:
    return export(model or linear(), "toy-colours", labels=LABELS, output=output, card={"network": "linear"}, **options)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("models"))


# What is published


def test_the_folder_holds_the_artifacts_files_and_anyone_may_read_it(artifact: Path) -> None:
    assert artifact.parts[-2:] == ("toy-colours", "1")
    files = {path.name for path in artifact.iterdir()} - {"assets", "fingerprint.pb"}
    assert files == {"model.onnx", "golden.npz", "card.json", "saved_model.pb", "variables"}
    assert stat.S_IMODE(artifact.stat().st_mode) == 0o755
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["1", "config.pbtxt"]


def test_the_onnx_graph_has_the_documented_interface(artifact: Path) -> None:
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", *SHAPE])
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["N", len(LABELS)]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == {"name": "toy-colours", "labels": json.dumps(LABELS)}
    assert session.get_modelmeta().graph_name == "toy-colours"


def test_the_onnx_opset_is_15_or_later(artifact: Path) -> None:
    opsets = {entry.domain: entry.version for entry in onnx.load(artifact / "model.onnx").opset_import}
    assert opsets[""] >= 15


def test_the_saved_model_has_the_same_names_and_types(artifact: Path) -> None:
    signature = tf.saved_model.load(str(artifact)).signatures["serving_default"]
    image = signature.structured_input_signature[1]["image"]
    assert (image.dtype, image.shape.as_list()) == (tf.uint8, [None, *SHAPE])
    assert set(signature.structured_outputs) == {"probabilities"}
    assert signature.structured_outputs["probabilities"].dtype == tf.float32


def test_the_saved_model_holds_no_optimizer(tmp_path: Path) -> None:
    model = linear()
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    size = (published(tmp_path, model) / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size < 2 * 4 * model.count_params()  # Adam's two means would make it three times the weights


def test_a_layer_that_holds_a_table_is_saved_with_it(tmp_path: Path) -> None:
    """What the graph names and is no weight."""

    class Lookup(layers.Layer):
        def build(self, _: Any) -> None:
            keys, values = tf.constant([0, 1], tf.int64), tf.constant([1.0, 3.0])
            initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
            self.table = tf.lookup.StaticHashTable(initializer, default_value=0.0)

        def call(self, x: Any) -> Any:
            return self.table.lookup(tf.cast(x > 0.5, tf.int64))

    model = keras.Sequential([layers.Input(SHAPE), Lookup(), layers.Flatten(), layers.Dense(3, activation="softmax")])
    function, _ = module.serving_function(model, None)
    module.write_saved_model(model, function, tmp_path)
    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    expected = model(noise() / np.float32(255))
    np.testing.assert_allclose(signature(image=tf.constant(noise()))["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_both_forms_answer_as_the_model_does_for_any_number_of_images(artifact: Path, count: int) -> None:
    images = noise(count=count)
    expected = by_hand(linear(), images)
    signature = tf.saved_model.load(str(artifact)).signatures["serving_default"]
    np.testing.assert_allclose(onnx_answers(artifact, images), expected, atol=1e-4)
    np.testing.assert_allclose(signature(image=tf.constant(images))["probabilities"], expected, atol=1e-4)


def test_what_a_layer_holds_beside_its_weights_is_inside(tmp_path: Path) -> None:
    image = layers.Input(SHAPE)
    x = layers.Normalization(mean=[0.4] * SHAPE[-1], variance=[0.1] * SHAPE[-1])(image)
    x = layers.Flatten()(layers.Activation("gelu")(x))  # Keras computes gelu by Erfc, which tf2onnx does not know
    model = keras.Model(image, layers.Dense(len(LABELS), activation="softmax")(x))
    folder = published(tmp_path, model)
    expected = model.predict(noise() / np.float32(255), verbose=0)
    np.testing.assert_allclose(onnx_answers(folder, noise()), expected, atol=1e-5)


def test_golden_holds_32_inputs_and_what_keras_gave(artifact: Path) -> None:
    with np.load(artifact / "golden.npz") as golden:
        images, probabilities = golden["image"], golden["probabilities"]
    assert images.shape == (32, *SHAPE)
    assert (images.dtype, probabilities.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(probabilities, by_hand(linear(), images), atol=1e-4)


def test_the_card_holds_what_was_measured_here_and_what_was_passed_in(artifact: Path) -> None:
    card = json.loads((artifact / "card.json").read_text())
    assert (card["name"], card["network"]) == ("toy-colours", "linear")
    assert (card["labels"], card["input_shape"]) == (list(LABELS), list(SHAPE))
    assert card["parameters"] == 8 * 6 * 3 * len(LABELS) + len(LABELS)
    assert {"python", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy"} == set(card["libraries"])
    assert set(card["files"]) == {"model.onnx", "golden.npz"}


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz"])
def test_the_card_holds_size_and_hash_of_what_is_served(artifact: Path, file: str) -> None:
    content = (artifact / file).read_bytes()
    listed = json.loads((artifact / "card.json").read_text())["files"][file]
    assert listed == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_model_that_tells_few_classes_apart_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = linear()
    model.layers[-1].set_weights([np.zeros((8 * 6 * 3, 6)), np.arange(6)])
    published(tmp_path, model)
    assert "answers only 1 of its 6 classes: this comparison proves less" in capsys.readouterr().out


# What is refused


def swap_two_rows(path: Path) -> None:
    """Exchange two rows of the weights in an ONNX file, as a faulty converter might."""
    proto = onnx.load(path)
    weights = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
    array = onnx.numpy_helper.to_array(weights).copy()
    array[[0, 1]] = array[[1, 0]]
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    onnx.save(proto, str(path))


@pytest.fixture
def faulty_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.write_onnx

    def write_and_swap(function: Any, path: Path, *rest: Any) -> None:
        write(function, path, *rest)
        swap_two_rows(path)

    monkeypatch.setattr(module, "write_onnx", write_and_swap)


@pytest.mark.usefixtures("faulty_converter")
def test_two_swapped_weights_in_the_onnx_file_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ONNX disagrees with Keras .* nothing was published"):
        published(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("faulty_converter")
def test_a_refused_export_leaves_the_versions_before_it(tmp_path: Path, artifact: Path) -> None:
    shutil.copytree(artifact, tmp_path / "toy-colours" / "1")
    with pytest.raises(ExportError, match="ONNX disagrees"):
        published(tmp_path)
    assert [path.name for path in (tmp_path / "toy-colours").iterdir()] == ["1"]


def test_a_saved_model_that_disagrees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, other = module.write_saved_model, linear()
    other.layers[-1].set_weights([w[::-1] for w in other.layers[-1].get_weights()])
    function, _ = module.serving_function(other, None)
    monkeypatch.setattr(module, "write_saved_model", lambda model, _, folder: write(other, function, folder))
    with pytest.raises(ExportError, match="SavedModel disagrees with Keras"):
        published(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "labels", "activation", "told"),
    [
        ("toy", LABELS, "linear", "no probabilities.*end it with a softmax"),
        ("toy", LABELS, "sigmoid", "no probabilities.*end it with a softmax"),
        ("toy", LABELS[:3], "softmax", r"gives \(6,\) outputs but there are 3 labels"),
        ("", LABELS, "softmax", "model name ''"),
        ("../toy", LABELS, "softmax", r"model name '\.\./toy'"),
        (".hidden", LABELS, "softmax", r"model name '\.hidden'"),
        ("my toy", LABELS, "softmax", "model name 'my toy'"),
        ("x" * 101, LABELS, "softmax", "at most 100"),
    ],
)
def test_what_cannot_be_served_is_refused(
    tmp_path: Path, name: str, labels: tuple[str, ...], activation: str, told: str
) -> None:
    with pytest.raises(ExportError, match=told):
        export(linear(activation=activation), name, labels=labels, output=tmp_path, card={})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"cannot write to .*file/toy-colours"):
        published(tmp_path / "file")


@pytest.mark.parametrize("size", [3_000, 40_000])
def test_a_full_disk_leaves_nothing_and_is_told(tmp_path: Path, size: int) -> None:
    """A limit on the size of files stands for the disk; how far the export gets depends on it."""
    model = linear((40, 40, 3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write to .*; nothing was published"):
            published(tmp_path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


# Versions


def test_the_next_free_integer_is_taken_and_what_exists_stays(tmp_path: Path, artifact: Path) -> None:
    parent = tmp_path / "toy-colours"
    shutil.copytree(artifact, parent / "9")
    for other in ("notes", ".tmp-abandoned"):
        (parent / other).mkdir()
    before = (parent / "9" / "card.json").read_bytes()
    assert published(tmp_path) == parent / "10"
    assert (parent / "9" / "card.json").read_bytes() == before
    assert {path.name for path in parent.iterdir()} == {"9", "10", "notes", ".tmp-abandoned", "config.pbtxt"}


def test_a_version_taken_between_looking_and_renaming_is_left_and_the_next_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def another_was_faster(self: Path, target: Path) -> Path:
        if target.name in ("1", "2"):
            target.mkdir()
            (target / "card.json").write_text("another's")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", another_was_faster)
    assert published(tmp_path).name == "3"
    assert [(tmp_path / "toy-colours" / v / "card.json").read_text() for v in "12"] == ["another's"] * 2


def test_exports_that_publish_at_once_all_get_a_version_of_their_own(tmp_path: Path) -> None:
    start, versions = threading.Barrier(8), {}

    def publish(i: int) -> None:
        folder = tmp_path / f".tmp-{i}"
        folder.mkdir()
        (folder / "card.json").write_text(str(i))
        start.wait()
        versions[i] = publish_folder(folder, tmp_path)

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in versions.values()) == list(range(1, 9))
    assert all((path / "card.json").read_text() == str(i) for i, path in versions.items())


# The command line


def saved(folder: Path, model: keras.Model) -> str:
    model.save(folder / "mine.keras")
    return str(folder / "mine.keras")


@pytest.mark.parametrize(
    ("inside", "arguments", "picture"),
    [
        ((28, 28), [], (28, 28, 1)),
        ((784,), ["--input-shape", "28,28,1"], (28, 28, 1)),
        ((147,), ["--input-shape", "7,7,3"], (7, 7, 3)),
        ((9, 7, 3), [], (9, 7, 3)),
        ((9, 7, 1), ["--input-range", "0-255"], (9, 7, 1)),
    ],
)
def test_a_model_trained_elsewhere_is_published(
    tmp_path: Path, inside: tuple[int, ...], arguments: list[str], picture: tuple[int, int, int]
) -> None:
    model, scale = linear(inside), 1 / 255
    if "0-255" in arguments:
        scale = 1.0
        model.layers[-1].set_weights([w / 255 for w in model.layers[-1].get_weights()])
    path = saved(tmp_path, model)
    assert main([path, "--name", "mine-shapes", "--output", str(tmp_path / "models"), *arguments]) == 0
    folder = tmp_path / "models" / "mine-shapes" / "1"
    images = noise(picture)
    np.testing.assert_allclose(onnx_answers(folder, images), by_hand(model, images, scale), atol=1e-4)
    card = json.loads((folder / "card.json").read_text())
    assert card["input_shape"] == list(picture)
    assert card["labels"] == ["0", "1", "2", "3", "4", "5"]
    assert card["dataset"]["name"] == "shapes"
    assert (card["recipe"], card["metrics"], card["training"]) == (None, None, None)


def test_labels_convention_and_origin_are_taken_from_the_command_line(tmp_path: Path) -> None:
    options = ["--labels", "a,b,c,d,e,f", "--input-convention", "light_on_dark_centred", "--origin", "drawn"]
    assert main([saved(tmp_path, linear()), "--name", "mine", "--output", str(tmp_path), *options]) == 0
    card = json.loads((tmp_path / "mine" / "1" / "card.json").read_text())
    assert card["labels"] == list("abcdef")
    assert card["input_convention"] == "light_on_dark_centred"
    assert card["dataset"]["origin"] == "drawn"


def test_a_fully_convolutional_model_needs_only_its_picture_named(tmp_path: Path) -> None:
    steps = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax")]
    model = keras.Sequential([layers.Input((None, None, 3)), *steps])
    path, output = saved(tmp_path, model), ["--name", "mine", "--output", str(tmp_path)]
    assert main([path, *output]) == 1
    assert main([path, *output, "--input-shape", "9,7,3"]) == 0
    images = noise((9, 7, 3))
    expected = np.asarray(model(images.astype(np.float32) / 255))
    np.testing.assert_allclose(onnx_answers(tmp_path / "mine" / "1", images), expected, atol=1e-4)


def two_outputs() -> keras.Model:
    image = layers.Input((4,))
    return keras.Model(image, [layers.Dense(3)(image), layers.Dense(3)(image)])


@pytest.mark.parametrize(
    ("make", "arguments", "told"),
    [
        (lambda: linear((784,)), [], "say with --input-shape H,W,C"),
        (lambda: linear((784,)), ["--input-shape", "28,x"], "--input-shape takes H,W,C, got '28,x'"),
        (lambda: linear((784,)), ["--input-shape", "28,28,3"], "picture of shape (28, 28, 3) does not fit"),
        (lambda: linear((784,)), ["--input-shape=-28,-28,1"], "does not fit"),
        (lambda: linear((8, 8, 2)), [], "C is 1 or 3"),
        (lambda: linear((2, 8, 8, 3)), [], "say with --input-shape"),
        (lambda: linear(activation="sigmoid"), [], "end it with a softmax"),
        (
            lambda: linear(classes=1, activation="sigmoid"),
            ["--labels", "a"],
            "gives (1,) outputs but there are 1 labels",
        ),
        (linear, ["--labels", "a,b,c,d,e, a"], "must be different names, got a,b,c,d,e,a"),
        (linear, ["--labels", "a,b"], "gives (6,) outputs but there are 2 labels"),
        (two_outputs, [], "needs one input and one output"),
    ],
)
def test_what_the_command_cannot_publish_is_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], keras.Model],
    arguments: list[str],
    told: str,
) -> None:
    path = saved(tmp_path, make())
    assert main([path, "--name", "mine", "--output", str(tmp_path / "models"), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not (tmp_path / "models" / "mine").exists()


@pytest.mark.parametrize("content", [None, b"", b"junk", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_model_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "bad.keras").write_bytes(content)
    assert main([str(tmp_path / "bad.keras"), "--name", "mine", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bad.keras: not a readable .keras file" in error


def test_a_model_saved_before_it_was_built_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="not yet been built"):
        path = saved(tmp_path, keras.Sequential([layers.Dense(3, activation="softmax")]))
    assert main([path, "--name", "mine", "--output", str(tmp_path)]) == 1
    assert "saved before it was built" in capsys.readouterr().err
