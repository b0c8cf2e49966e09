"""Reads and verifies `models/`: which versions of which models to serve, each proven to be what its card says.

Knows files and hashes, not ONNX Runtime. A damaged artifact raises StartError naming the file.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import StartError

FILES = ("model.onnx", "golden.npz", "card.json")
CONVENTIONS = ("plain", "light_on_dark_centred", "centre_crop", "pad")
MAX_RESIZE_TO = 8192  # pixels
FLOAT32_LIMIT = 1e-4  # how far a float32 probability may be from the golden one, where the card states nothing else
MAX_FLOAT32_LIMIT = 1e-2
# How far a float32 unfamiliarity may be from its reference, as a fraction of that (or of the median, for those close to
# 0): it is a distance with no scale of its own.
UNFAMILIARITY_LIMIT = 1e-3
MAX_UNFAMILIARITY_LIMIT = 1e-2
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's, to resize with


@dataclass(frozen=True)
class Artifact:
    """One verified version. `onnx` is the model's bytes; golden arrays are (n, H, W, C) uint8, (n, K) float32 and (n,)
    float32. golden.npz need not hold the last one: it is how unfamiliar the pictures are to the network."""

    name: str
    version: int
    path: Path
    labels: tuple[str, ...]
    input_shape: tuple[int, int, int]
    input_convention: str
    resample: str
    sha256: str
    card: dict[str, Any] = field(repr=False)
    onnx: bytes = field(repr=False)
    golden_images: np.ndarray = field(repr=False)
    golden_probabilities: np.ndarray = field(repr=False)
    resize_to: int | None = None
    pad_fill: tuple[int, ...] = (0,)
    float32_limit: float = FLOAT32_LIMIT
    golden_unfamiliarity: np.ndarray | None = field(repr=False, default=None)
    graph_bytes: int = 0  # where `onnx` was left out

    @property
    def bytes(self) -> int:
        """Of the graph, which is what a model takes of memory at the least."""
        return len(self.onnx) or self.graph_bytes

    def without_contents(self) -> "Artifact":
        """What the card says, without the graph and the golden arrays."""
        strange = self.golden_unfamiliarity
        return replace(
            self,
            onnx=b"",
            golden_images=self.golden_images[:0].copy(),
            golden_probabilities=self.golden_probabilities[:0].copy(),
            golden_unfamiliarity=None if strange is None else strange[:0].copy(),
            graph_bytes=self.bytes,
        )

    @functools.cached_property
    def identity(self) -> str:
        """Of everything that decides an answer beside the picture: the card, which says how a picture is decoded and
        has the hashes of the other files."""
        return hashlib.sha256(json.dumps(self.card, sort_keys=True).encode()).hexdigest()

    @property
    def unfamiliarity_threshold(self) -> float | None:
        """Above it a picture is unfamiliar; None where the card names none."""
        threshold = (self.card.get("unfamiliarity") or {}).get("threshold")
        return None if threshold is None else float(threshold)

    @property
    def unfamiliarity_limit(self) -> float:
        """How far a float32 unfamiliarity may be from the golden one, as a fraction: more in a deep network, which
        amplifies rounding."""
        stated = (self.card.get("unfamiliarity") or {}).get("float32_limit", UNFAMILIARITY_LIMIT)
        return min(max(float(stated), UNFAMILIARITY_LIMIT), MAX_UNFAMILIARITY_LIMIT)


def select(models: Path, versions: str = "", apart: Mapping[str, int] | None = None) -> list[Path]:
    """The folders to load: the latest version of each model, or what `versions` says ("all", "model:1,3 other:2");
    without the version of a model that `apart` names, which must be there beside another.

    What is no model's folder or no version's is passed over; `misnamed` tells of what was probably meant as one.
    """
    if not models.is_dir():
        raise StartError(f"{models}: no such folder of models (SHORTCUT_MODELS)")
    by_name = {}
    for model in _model_folders(models):
        if paths := versions_of(model):
            by_name[model.name] = {int(path.name): path for path in reversed(paths)}
    if not by_name:
        hint = "; ".join(misnamed(models)) or "expected <model>/<version>/model.onnx"
        raise StartError(f"{models}: holds no model ({hint})")
    wanted = {} if versions == "all" else _wanted(versions)
    for name, number in (apart or {}).items():
        if number not in by_name.get(name, {}) or len(by_name[name]) < 2:
            there = ", ".join(f"{m}:{','.join(map(str, by_name[m]))}" for m in by_name)
            raise StartError(f"SHORTCUT_SHADOW asks for {name}:{number} beside another version; {models} holds {there}")
        if number in wanted.get(name, []):
            raise StartError(f"SHORTCUT_SHADOW and SHORTCUT_VERSIONS both name {name}:{number}: a shadow is not served")
        del by_name[name][number]
    if versions == "all":
        return [path for numbers in by_name.values() for path in numbers.values()]
    for name, asked in wanted.items():
        for number in asked:
            if number not in by_name.get(name, {}):
                there = ", ".join(f"{m}:{','.join(map(str, by_name[m]))}" for m in by_name)
                raise StartError(f"SHORTCUT_VERSIONS asks for {name}:{number}; {models} holds {there}")
    return [paths[n] for name, paths in by_name.items() for n in wanted.get(name, [max(paths)])]


def _model_folders(models: Path) -> list[Path]:
    """Folders in `models`, without those that file systems and tools leave. Raises StartError if it cannot be read."""
    return [path for path in _folders(models) if not path.name.startswith((".", "@", "#")) and path.name not in _LEFT]


_LEFT = {"lost+found", "__MACOSX", "__pycache__", "System Volume Information", "$RECYCLE.BIN"}


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir())
    except OSError as err:
        raise StartError(f"{err.filename or path}: cannot be read ({err.strerror})") from err


def versions_of(model: Path) -> list[Path]:
    """The version folders of models/<model>, the newest first. Raises StartError where it cannot be read."""
    return sorted((path for path in _folders(model) if _is_version(path.name)), key=lambda path: -int(path.name))


def _is_version(name: str) -> bool:
    """Whole numbers as they are written: 007 beside 7 would be the same version twice."""
    return name.isascii() and name.isdecimal() and name == str(int(name))


def misnamed(models: Path) -> list[str]:
    """A sentence for each folder that holds a model's files but not under a version's name."""
    problems = []
    for model in _model_folders(models):
        if _holds_a_graph(model):
            problems.append(f"{model} holds a model.onnx itself: move it into {model}/1")
        for path in _folders(model):
            if not _is_version(path.name) and not path.name.startswith(".") and _holds_a_graph(path):
                problems.append(f"{path} is no version: its name must be a whole number, as 1 or 20")
    return problems


def _holds_a_graph(folder: Path) -> bool:
    try:
        return (folder / "model.onnx").is_file()
    except OSError:  # a folder that may not be looked into, lost+found for one
        return False


def _wanted(versions: str) -> dict[str, list[int]]:
    """`model:1,3 other:2` -> {"model": [1, 3], "other": [2]}; models may also be separated by ';'."""
    wanted: dict[str, list[int]] = {}
    for part in versions.replace(";", " ").split():
        model, colon, numbers = part.rpartition(":")
        if not colon or not all(n.isascii() and n.isdecimal() and len(n) <= 19 for n in numbers.split(",")):
            raise StartError(f"SHORTCUT_VERSIONS={versions}: expected `all` or `model:1,3 other:2`, got {part!r}")
        wanted[model] = sorted({int(n) for n in numbers.split(",")})
    return wanted


def read(path: Path) -> Artifact:
    """Read `path` (models/<name>/<version>), checking every listed file's SHA-256 before anything in it is used."""
    card = _read_card(path / "card.json")
    contents = {name: _verified(path / name, card["files"].get(name)) for name in ("model.onnx", "golden.npz")}
    return _artifact(path, card, contents["model.onnx"], *_read_golden(path, contents["golden.npz"], card))


def describe(path: Path) -> Artifact:
    """What the card of `path` says, `without_contents`: for a version that was read before, and is read again before it
    computes. Its other files are not verified."""
    card = _read_card(path / "card.json")
    try:
        size = (path / "model.onnx").stat().st_size
        with np.load(path / "golden.npz", allow_pickle=False) as archive:  # its list of arrays alone
            strange = np.empty(0, np.float32) if "unfamiliarity" in archive.files else None
    except Exception as err:  # as in _read_golden
        raise StartError(f"{path}: cannot be read ({err})") from err
    images = np.empty((0, *card["input_shape"]), np.uint8)
    return replace(
        _artifact(path, card, b"", images, np.empty((0, len(card["labels"])), np.float32), strange), graph_bytes=size
    )


def _artifact(
    path: Path,
    card: dict[str, Any],
    onnx: bytes,
    images: np.ndarray,
    probabilities: np.ndarray,
    unfamiliarity: np.ndarray | None,
) -> Artifact:
    return Artifact(
        name=path.parent.name,
        version=int(path.name),
        path=path,
        labels=tuple(card["labels"]),
        input_shape=tuple(card["input_shape"]),
        input_convention=card["input_convention"],
        resample=card.get("resample", "bilinear"),
        sha256=card["files"]["model.onnx"]["sha256"],
        card=card,
        onnx=onnx,
        golden_images=images,
        golden_probabilities=probabilities,
        resize_to=card.get("resize_to"),
        pad_fill=tuple(card.get("pad_fill", (0,))),
        float32_limit=card.get("exactness", {}).get("float32_limit", FLOAT32_LIMIT),
        golden_unfamiliarity=unfamiliarity,
    )


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as err:
        raise StartError(f"{path}: cannot be read ({err.strerror})") from err
    except ValueError as err:
        raise StartError(f"{path}: is no valid JSON ({err})") from err
    try:
        wrong = next(_wrong(card, path.parent.parent.name), None)
    except (KeyError, TypeError) as err:
        raise StartError(f"{path}: lacks or mistypes {err}") from err
    if wrong is not None:
        raise StartError(f"{path}: {wrong}")
    return card


def _wrong(card: dict[str, Any], folder: str) -> Iterator[str]:
    """A sentence for each thing in the card that is not as it must be."""
    labels, shape = card["labels"], card["input_shape"]
    if card["name"] != folder:
        yield f"the model is called {card['name']!r}, and its folder {folder!r}: rename the folder"
    if not (isinstance(labels, list) and len(labels) >= 2 and all(isinstance(label, str) for label in labels)):
        yield f"labels must be two texts or more, got {_shown(labels)}"
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape)
        and shape[2] in (1, 3)
    ):
        yield f"input_shape must be [height, width, 1 or 3], got {_shown(shape)}"
        return
    for name, known in (("input_convention", CONVENTIONS), ("resample", FILTERS)):
        if card.get(name, "bilinear" if name == "resample" else None) not in known:
            yield f"{name} must be one of {', '.join(known)}, got {_shown(card.get(name))}"
    if not _fits_convention(card, shape):
        given = ", ".join(f"{name} {_shown(card.get(name))}" for name in ("input_convention", "resize_to", "pad_fill"))
        yield (
            "resize_to goes with centre_crop and is at least as large as the input; pad_fill goes with pad, and has a "
            f"level for each channel or one: got {given}"
        )
    exactness = card.get("exactness", {})
    limit = exactness.get("float32_limit", FLOAT32_LIMIT) if isinstance(exactness, dict) else None
    if not (isinstance(limit, float) and FLOAT32_LIMIT <= limit <= MAX_FLOAT32_LIMIT):
        yield (
            f"exactness must be an object whose float32_limit is from {FLOAT32_LIMIT:g} to {MAX_FLOAT32_LIMIT:g}, "
            f"got {_shown(exactness)}"
        )
    if not isinstance(card["files"], dict):
        yield f"files must name each file's sha256, got {_shown(card['files'])}"
    if not _is_threshold(card.get("unfamiliarity")):
        yield f"unfamiliarity must be an object whose threshold is a number, got {_shown(card['unfamiliarity'])}"


def _shown(value: Any) -> str:
    return ascii(value)[:60]


def _fits_convention(card: dict[str, Any], shape: list[int]) -> bool:
    """Whether `resize_to` is a whole number that the model's frame can be cut out of, for centre_crop alone, and
    `pad_fill` a level of 0 to 255 for each channel or for all, for pad alone."""
    convention, resize_to, fill = card["input_convention"], card.get("resize_to"), card.get("pad_fill")
    if resize_to is not None and not (
        convention == "centre_crop" and type(resize_to) is int and max(shape[:2]) <= resize_to <= MAX_RESIZE_TO
    ):
        return False
    levels = fill if isinstance(fill, list) else None
    return fill is None or (
        convention == "pad"
        and levels is not None
        and len(levels) in (1, shape[2])
        and all(type(level) is int and 0 <= level <= 255 for level in levels)
    )


def _is_threshold(unfamiliarity: Any) -> bool:
    """Whether it is nothing, or `{"threshold": <number or null>, …}`."""
    if unfamiliarity is None:
        return True
    value = unfamiliarity.get("threshold") if isinstance(unfamiliarity, dict) else "no mapping"
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _verified(path: Path, listed: Any) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise StartError(f"{path}: cannot be read ({err.strerror})") from err
    expected = listed.get("sha256") if isinstance(listed, dict) else None
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise StartError(
            f"{path}: is damaged or was changed (SHA-256 {actual[:12]}…, the card says {str(expected)[:12]}…)"
        )
    return content


def _read_golden(
    folder: Path, content: bytes, card: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    path = folder / "golden.npz"
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            images, probabilities = archive["image"], archive["probabilities"]
            unfamiliarity = archive.get("unfamiliarity")
    except Exception as err:  # zip, header and dtype damage each raise a class of their own
        raise StartError(f"{path}: is no readable golden.npz ({err})") from err
    fits = images.shape[1:] == tuple(card["input_shape"]) and probabilities.shape == (len(images), len(card["labels"]))
    if not fits or images.dtype != np.uint8 or len(images) == 0:
        raise StartError(f"{path}: arrays {images.shape} {images.dtype} and {probabilities.shape} do not fit the card")
    if unfamiliarity is not None and (unfamiliarity.shape != (len(images),) or not np.isfinite(unfamiliarity).all()):
        raise StartError(f"{path}: unfamiliarity {unfamiliarity.shape} is not a finite number for each image")
    return images, probabilities, unfamiliarity
