"""A classifier that was trained anywhere -> an artifact, proven against its own runtime before it is published.

Puts together what the file says and what the user says, and asks for what neither says. TensorFlow is not needed for
an ONNX file; other formats come here as an ONNX graph with a runtime of their own (`tensorflow_file.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from training.artifact.card import card_of_unknown_training, write_card
from training.artifact.errors import ExportError
from training.artifact.exactness import DRAWS, LEAST, agreement
from training.artifact.golden import COUNT, golden_inputs, warning_of_few
from training.artifact.pixels import RANGES, Pixels
from training.artifact.triton import write_config
from training.artifact.versions import check_name, new_version
from training.data.dataset import batch_for
from training.foreign import batch, proof
from training.foreign.declared import Declared, declared_by
from training.foreign.labels import distinct, read_labels
from training.foreign.network import BYTES, Input, Output, ending_of, find_input, find_output
from training.foreign.onnx_file import modern, read_onnx, session
from training.foreign.original import Original, Run, by_onnx_runtime
from training.foreign.resizing import Resizing
from training.foreign.rounding import graph_spread
from training.foreign.wrapping import PROBABILITIES, parameters, wrapped

_PATIENCE = 10.0  # seconds that choosing golden pictures, and measuring what rounding does to them, may take, about
_MANY = 30_000_000  # weights, from which drawing them anew takes long too: ResNet-50 has 26 million

# How far rounding moves the answers of a served graph to pictures (n, H, W, C): (n,)
Spread = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What the user says of a model; None where nothing was declared."""

    name: str
    output: Path = Path("models")
    labels: str | None = None
    pixels: Pixels | None = None
    size: tuple[int, int] | None = None
    shape: tuple[int, int, int] | None = None
    layout: str | None = None
    output_name: str | None = None
    ending: str | None = None
    resize: str | None = None
    resize_to: int | None = None
    resample: str | None = None
    pad_fill: tuple[int, ...] | None = None
    convention: str | None = None
    check: Path | None = None
    expect: Sequence[str] = ()
    origin: str = "trained elsewhere"


@dataclass(frozen=True)
class ModelFile:
    """A model as a file holds it: its graph, what runs the original (else ONNX Runtime), and what is declared of it.

    `quantised` is the scale and zero point of an input of whole numbers, where the file has them; `other_kernels` runs
    a quantised network by other kernels of its own runtime, which round otherwise.
    """

    proto: onnx.ModelProto
    declared: Declared
    run: Run | None = None
    runtime: str = "ONNX Runtime"
    quantised: tuple[float, int] | None = None
    other_kernels: Run | None = None


def read_file(path: Path) -> ModelFile:
    """The ONNX model in a file or folder. Raises ExportError."""
    file = onnx_in(path)
    proto = read_onnx(file)
    return ModelFile(proto, declared_by(file, proto))


def onnx_in(path: Path) -> Path:
    """The ONNX file itself, or the one in a folder as optimum writes it. Raises ExportError."""
    if not path.exists():
        raise ExportError(f"{path}: no such file or folder")
    if path.is_file():
        return path
    for name in ("model.onnx", "onnx/model.onnx"):
        if (path / name).is_file():
            return path / name
    files = sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])
    if len(files) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in files) or "none"
        raise ExportError(f"{path}: needs one ONNX file in the folder, found {names}; name the file itself")
    return files[0]


def publish(file: ModelFile, asked: Asked, say: Callable[[str], None] = print) -> Path:
    """Publish the model and return the version's folder. `say` is told what was found. Raises ExportError."""
    check_name(asked.name)
    declared = file.declared
    for note in declared.notes:
        say(note)
    original_proto, classes = _without_zipmap(file.proto)
    labels = _labels(asked, declared, classes)
    size = asked.size or (None if asked.shape else declared.size)
    run = file.run or by_onnx_runtime(session(original_proto))
    proto = modern(original_proto)
    if batch.trains(proto):
        raise ExportError(
            "a BatchNormalization is in training mode, so the answers to a picture depend on those beside it: export "
            "the model in evaluation mode (model.eval() of PyTorch)"
        )
    source = find_input(proto, size, asked.shape, asked.layout)
    alone = batch.is_scaled_by_batch(proto)
    if alone:
        reason = "the network was quantised dynamically, which mixes the pictures of a batch"
        if source.batch not in (None, 1):
            raise ExportError(f"{reason}, and takes {source.batch} at once: export it with a free batch axis")
        source = replace(source, batch=1)
        say(f"{reason}: they go through it one by one")
    pixels = _pixels(asked, declared, source, file.quantised)
    original = Original(run, source, pixels)
    output = _output(original, proto, asked, labels)
    labels = labels if labels is not None else [str(i) for i in range(output.classes)]
    if len(labels) != output.classes:
        raise ExportError(f"there are {len(labels)} labels, but the model gives {output.classes} classes")
    resizing = resizing_of(asked, declared, source.shape)
    _tell(say, asked, declared, original, output, resizing, labels)
    proof.expectations(asked.expect, labels)  # a wrong one is told before the work
    spread = _spread(file, original, output)
    served = _served(proto, original, output, asked.name, labels, spread, alone, say)
    return _written(served, original, output, resizing, asked, file, labels, spread, say)


def _without_zipmap(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str] | None]:
    """scikit-learn's classifiers end in a ZipMap, which makes dictionaries: the model without it, and its classes."""
    maps = [node for node in proto.graph.node if node.op_type == "ZipMap"]
    if len(maps) != 1:
        return proto, None
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    node = next(node for node in copy.graph.node if node.op_type == "ZipMap")
    attributes = {attribute.name: attribute for attribute in node.attribute}
    names = attributes.get("classlabels_strings")
    numbers = attributes.get("classlabels_int64s")
    labels = [s.decode() for s in names.strings] if names else [str(i) for i in numbers.ints] if numbers else []
    output = next(value for value in copy.graph.output if value.name == node.output[0])
    value = onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, ["N", len(labels) or None])
    output.CopyFrom(value)
    copy.graph.node.remove(node)
    return copy, labels or None


def _labels(asked: Asked, declared: Declared, classes: list[str] | None) -> list[str] | None:
    if asked.labels is not None:
        return read_labels(asked.labels)
    return declared.labels if declared.labels is not None else classes and distinct(classes)


def _pixels(asked: Asked, declared: Declared, source: Input, quantised: tuple[float, int] | None) -> Pixels:
    """What the network expects, asked, declared or told by its type. Raises ExportError where nothing tells it."""
    pixels = asked.pixels or declared.pixels
    if source.elem_type in BYTES:
        pixels = _of_bytes(pixels, source, quantised)
    if pixels is None:
        raise ExportError(
            f"nothing says which pixels the input {source.name} expects: --input-range imagenet (torchvision's and "
            "most of PyTorch), 0-1, -1-1 (as --input-range=-1-1), 0-255 or caffe, or --mean and --std"
        )
    pixels.check(source.shape[2])
    return pixels


def _of_bytes(asked: Pixels | None, source: Input, quantised: tuple[float, int] | None) -> Pixels:
    """The pixels of an input of 8 bits: as they are, or less 128 where it has a sign. Raises ExportError.

    A range that was asked for must be the one that the input's own scale makes of them.
    """
    plain = Pixels(1.0, (float(BYTES[source.elem_type]),), bgr=asked is not None and asked.bgr)
    if asked is None or asked == plain or (quantised is None and asked == RANGES["0-255"]):
        return plain
    reason = f"the input {source.name} takes pixels of 8 bits as they are"
    if quantised is None:
        raise ExportError(f"{reason}: leave out --input-range, --mean and --std, or say --input-range 0-255")
    levels = np.arange(256, dtype=np.uint8).reshape(1, -1, 1, 1).repeat(source.shape[2], axis=3)
    scale, zero = quantised
    real = (plain.of(levels) - zero) * scale
    if np.abs(real - asked.of(levels)).max() > 1.5 * scale:
        raise ExportError(f"{reason}, which it reads as {real.min():.3g} to {real.max():.3g}: {asked} is another range")
    return plain


def _output(original: Original, proto: onnx.ModelProto, asked: Asked, labels: list[str] | None) -> Output:
    """The output with the classes and what its values are, found by running the original."""
    source = original.source
    count = source.batch or 2
    probes = _probes(source, max(count, 8))

    def run(names: Sequence[str]) -> list[np.ndarray]:
        return list(original.run(names, source.given(original.pixels.of(probes[:count]))))

    output = find_output(proto, run, count, asked.output_name, None if labels is None else len(labels))
    return ending_of(proto, output, original.raw(probes, [output.name])[0].reshape(len(probes), -1), asked.ending)


def _probes(source: Input, count: int) -> np.ndarray:
    """Noise of several scales, (count, H, W, C) uint8."""
    rng = np.random.default_rng(0)
    height, width, channels = source.shape
    pictures = []
    for i in range(count):
        cells = 1 << (1 + i % 6)
        small = rng.integers(0, 256, (cells, cells, channels), np.uint8)
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        pictures.append(small[rows][:, columns])
    return np.stack(pictures)


def resizing_of(asked: Asked, declared: Declared, shape: tuple[int, int, int]) -> Resizing:
    """How other sizes are brought to `shape`, asked or declared, else squashed. Raises ExportError."""
    resizing = declared.resizing or Resizing()
    if asked.resize is not None and asked.resize != resizing.kind:
        resizing = Resizing(asked.resize, None, resizing.resample)
    if asked.resize_to is not None:
        if asked.resize not in (None, "crop"):
            raise ExportError(
                f"--resize-to is the shorter side before a crop: it goes with --resize crop, not {asked.resize}"
            )
        resizing = replace(resizing, kind="crop", to=asked.resize_to)
    if asked.resample is not None:
        resizing = replace(resizing, resample=asked.resample)
    if asked.pad_fill is not None:
        if resizing.kind != "pad" or len(asked.pad_fill) not in (1, shape[2]):
            raise ExportError(f"--pad-fill goes with --resize pad and has 1 or {shape[2]} values from 0 to 255")
        resizing = replace(resizing, fill=asked.pad_fill)
    side = max(shape[:2])
    if resizing.kind == "crop" and resizing.to is not None and resizing.to < side:
        raise ExportError(f"a crop of {side} pixels cannot be cut out of {resizing.to}: --resize-to is at least {side}")
    return resizing


def _tell(
    say: Callable[[str], None],
    asked: Asked,
    declared: Declared,
    original: Original,
    output: Output,
    resizing: Resizing,
    labels: list[str],
) -> None:
    """What will be published, and who declared so."""
    source = original.source
    by = f" ({', '.join(declared.where)})" if declared.where else ""
    pixels_by = "" if asked.pixels or not declared.pixels else by
    labels_by = "" if asked.labels or not declared.labels else by
    size_by = "" if asked.resize or asked.resize_to or not declared.resizing else by
    height, width, channels = source.shape
    say(f"input {source.name}: {source.layout}, pictures of {height}x{width} with {channels} channels")
    say(f"pixels {original.pixels}{pixels_by}")
    free = "; --resize pad or crop says otherwise"
    if size_by or asked.resize or asked.resize_to or asked.convention:
        free = ""
    say(f"other sizes: {asked.convention or resizing}{size_by}{free}")
    first = ", ".join(labels[:3]) + (" …" if labels[3:] else "")
    numbers = "" if asked.labels or declared.labels else "; --labels names them"
    say(f"output {output.name}: {len(labels)} classes ({first}), {output.ending}{labels_by}{numbers}")


def _spread(file: ModelFile, original: Original, output: Output) -> Spread:
    """How far rounding moves a served graph's answers; a quantised network's own runtime is asked, by other kernels."""
    if file.other_kernels is None:
        return graph_spread
    other = replace(original, run=file.other_kernels)

    def between_kernels(served: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
        moved = np.abs(original.probabilities(images, output) - other.probabilities(images, output)).max(axis=1)
        return np.maximum(moved, graph_spread(served, images))

    return between_kernels


def _check(
    answers: np.ndarray,
    reference: np.ndarray,
    served: onnx.ModelProto,
    images: np.ndarray,
    spread: Spread,
    known: np.ndarray | None = None,
) -> dict[str, float]:
    """The card's `exactness`. Rounding's part is measured only where it is `known` or makes the difference."""
    if known is None and agreement(answers, reference, LEAST)[0] > LEAST:
        known = spread(served, images)
    return proof.exactness(answers, reference, known)


def _served(
    proto: onnx.ModelProto,
    original: Original,
    output: Output,
    name: str,
    labels: list[str],
    spread: Spread,
    alone: bool,
    say: Callable[[str], None],
) -> onnx.ModelProto:
    """The graph that is served, for any number of pictures, and tried with several. Raises ExportError.

    Pictures go through the network one by one where they have to (`alone`), or where it knows no other way.
    """
    source = original.source
    probes = _probes(source, 6)
    reference = original.probabilities(probes, output)
    shape = source.given(np.zeros((1, *source.shape), np.float32)).shape[1:]

    def attempt(body: onnx.ModelProto, last: Output) -> onnx.ModelProto:
        graph = wrapped(body, source, last, original.pixels, name, labels)
        running = session(graph)
        try:
            answers = [running.run([PROBABILITIES], {"image": probes[i : i + n]})[0] for i, n in ((0, 1), (1, 5))]
        except Exception as err:  # ONNX Runtime has a dozen classes without a common base
            raise ExportError(f"the graph runs with one picture but not with several ({err})") from err
        _check(np.concatenate(answers), reference, graph, probes, spread)
        return graph

    if not alone:
        try:
            return attempt(batch.freed(proto, source.batch, shape), output)
        except ExportError:
            if source.batch != 1:
                raise
        say("the graph was exported for one picture alone: they go through it one by one (a free batch axis is faster)")
    return attempt(batch.one_by_one(proto, output.name, shape), replace(output, name=f"{output.name}:all"))


def _written(
    served: onnx.ModelProto,
    original: Original,
    output: Output,
    resizing: Resizing,
    asked: Asked,
    file: ModelFile,
    labels: list[str],
    spread: Spread,
    say: Callable[[str], None],
) -> Path:
    """The published version: the proof on drawn pictures, on the author's and on labelled ones, then the files."""
    source = original.source
    running = session(served)

    def answer(images: np.ndarray) -> np.ndarray:
        part = batch_for(source.shape)
        parts = [running.run([PROBABILITIES], {"image": images[i : i + part]})[0] for i in range(0, len(images), part)]
        return np.concatenate(parts)

    convention = {"input_convention": asked.convention} if asked.convention else resizing.card()
    card = card_of_unknown_training(file.declared.name or "imported", asked.name, asked.origin, "plain") | convention
    card["pixels"] = str(original.pixels)
    card["source"] = {"runtime": file.runtime, "producer": file.proto.producer_name or None}
    each = _seconds(answer, source.shape)
    measured = each * COUNT * (DRAWS + 1) <= _PATIENCE and parameters(file.proto) <= _MANY

    def moved_by_rounding(images: np.ndarray) -> np.ndarray:
        return spread(served, images) if measured else np.zeros(len(images))

    pool = int(np.clip(_PATIENCE / each, 2 * COUNT, 640))
    images, _, moved = golden_inputs(source.shape, answer, moved_by_rounding, pool=pool)

    def theirs(images: np.ndarray) -> np.ndarray:
        return original.probabilities(images, output)

    reference = theirs(images)
    card["exactness"] = _check(answer(images), reference, served, images, spread, moved if measured else None)
    if warning := warning_of_few(reference):
        say(warning)
    shown = asked.expect, asked.check
    card |= proof.proven(*shown, answer, theirs, resizing, card, source.shape, labels, say)

    def write(folder: Path) -> None:
        onnx.save(served, str(folder / "model.onnx"))
        np.savez(folder / "golden.npz", image=images, probabilities=reference)
        write_card(folder, parameters(file.proto), asked.name, labels, source.shape, card)
        write_config(folder)

    return new_version(asked.output, asked.name, write)


def _seconds(answer: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]) -> float:
    """How long a picture takes, about."""
    probe = np.zeros((8, *shape), np.uint8)
    answer(probe)
    start = time.perf_counter()
    answer(probe)
    return (time.perf_counter() - start) / len(probe)
