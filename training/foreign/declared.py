"""What a model's file and the files beside it say of its pictures and classes -> values that nobody has to ask for.

Reads the metadata of ultralytics, timm's `config.json`, and transformers' `config.json` and `preprocessor_config.json`.
What none of them says stays None.
"""

import ast
import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from training.artifact.errors import ExportError
from training.artifact.pixels import Pixels
from training.foreign.labels import distinct, from_json
from training.foreign.network import dims_of
from training.foreign.resizing import Resizing

# Pillow's numbers of its filters, which transformers writes
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TASKS = {"detect", "segment", "pose", "obb"}  # of ultralytics


@dataclass(frozen=True)
class Declared:
    """What is known of a model; `where` names the files that said it."""

    where: tuple[str, ...] = ()
    pixels: Pixels | None = None
    size: tuple[int, int] | None = None
    resizing: Resizing | None = None
    labels: list[str] | None = None
    ending: str | None = None
    name: str | None = None
    notes: tuple[str, ...] = field(default=())

    def over(self, other: "Declared") -> "Declared":
        """This, and where it says nothing, what `other` says."""
        both = {
            f.name: getattr(self, f.name) if getattr(self, f.name) is not None else getattr(other, f.name)
            for f in fields(self)
        }
        return replace(Declared(**both), where=self.where + other.where, notes=self.notes + other.notes)


def declared_by(path: Path, proto: onnx.ModelProto) -> Declared:
    """All that the model's metadata and the files beside `path` say. Raises ExportError where they cannot be meant."""
    declared = _ultralytics(proto)
    folders = [path.parent, path.parent.parent] if path.parent.name == "onnx" else [path.parent]  # optimum's
    for folder in folders:
        declared = declared.over(_timm(folder / "config.json", _size_of(proto))).over(_transformers(folder))
    return declared


def _size_of(proto: onnx.ModelProto) -> tuple[int, int] | None:
    """(H, W) of the pictures that the graph takes; None where it takes any, or says otherwise where they are."""
    dims = dims_of(proto.graph.input[0]) if proto.graph.input else None
    if dims is None or len(dims) != 4:
        return None
    height, width = dims[2:] if dims[1] in (1, 3) else dims[1:3]
    return (height, width) if height is not None and width is not None else None


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file beside a model; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ExportError(f"{path}: cannot be read ({err})") from err
    return content if isinstance(content, dict) else {}


def _ultralytics(proto: onnx.ModelProto) -> Declared:
    """https://docs.ultralytics.com/modes/export: the metadata of an exported model, all of it text."""
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if "names" not in metadata or "task" not in metadata:
        return Declared()
    if metadata["task"] != "classify":
        what = "a detector" if metadata["task"] in ("detect", "obb") else "no classifier"
        raise ExportError(
            f"the file's metadata says task {metadata['task']}: that is {what}, and classifiers are served"
        )
    where = ("ultralytics' metadata",)
    try:
        names = ast.literal_eval(metadata["names"])
        sides = ast.literal_eval(metadata["imgsz"]) if "imgsz" in metadata else None
    except (ValueError, SyntaxError) as err:
        raise ExportError(f"ultralytics' metadata cannot be read ({err})") from err
    labels = from_json({str(k): v for k, v in names.items()} if isinstance(names, dict) else names, where[0])
    size = None if sides is None else ((sides, sides) if isinstance(sides, int) else (int(sides[0]), int(sides[-1])))
    # classify_transforms: Resize(size) of the shorter side, CenterCrop, ToTensor, mean 0 and std 1
    resizing = Resizing("crop", min(size) if size else None)
    return Declared(where, Pixels(), size, resizing, distinct(labels), notes=("ultralytics' metadata: pixels 0-1",))


def _timm(path: Path, exported: tuple[int, int] | None) -> Declared:
    """timm's config.json: mean, std, input_size, crop_pct, crop_mode, interpolation and names, in `pretrained_cfg`.

    Many networks have a second size for testing, with a crop of its own. What counts is the size that was `exported`.
    """
    whole = _json(path)
    config = whole.get("pretrained_cfg", whole)
    if not isinstance(config, dict) or not {"mean", "std"} <= set(config):
        return Declared()
    where = (path.name,)
    try:
        pixels = Pixels(255.0, tuple(map(float, config["mean"])), tuple(map(float, config["std"])))
        train, test = (
            None if side is None else (int(side[1]), int(side[2]))
            for side in (config.get("input_size"), config.get("test_input_size"))
        )
        size = exported or test or train
        crop = config.get("test_crop_pct") if size == (test or size) else None
        percent = float(crop or config.get("crop_pct") or 0.875)  # timm's own default
    except (TypeError, ValueError, IndexError) as err:
        raise ExportError(f"{path}: mean, std, input_size or crop_pct cannot be read ({err})") from err
    mode, resample = config.get("crop_mode", "center"), config.get("interpolation") or "bilinear"
    if resample not in _FILTERS.values():
        resample = "bilinear"
    resizing = None
    notes: tuple[str, ...] = ()
    if mode == "center" and size:
        resizing = Resizing("crop", math.floor(min(size) / percent), resample)
    elif mode in ("squash", "border"):
        resizing = Resizing("squash" if mode == "squash" else "pad", None, resample)
        if percent != 1:
            notes = (f"{path.name} cuts {percent:g} of each side out of the middle then, which is left out here",)
    names = config.get("label_names") or whole.get("label_names")
    described = config.get("label_descriptions") or whole.get("label_descriptions")
    if isinstance(names, list) and isinstance(described, dict):
        names = [described.get(name, name) for name in names]
    labels = distinct(from_json(names, str(path))) if names else None
    name = whole.get("architecture") or config.get("architecture")
    return Declared(where, pixels, size, resizing, labels, name=name, notes=notes)


def _transformers(folder: Path) -> Declared:
    """config.json has `id2label`, preprocessor_config.json how the pictures are prepared."""
    config, prepared = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    declared = Declared()
    if "id2label" in config:
        if config.get("problem_type") == "multi_label_classification":
            raise ExportError(f"{folder}/config.json says multi_label_classification: a picture has one class here")
        architecture = next(iter(config.get("architectures") or ()), "")
        if architecture and "ImageClassification" not in architecture:
            raise ExportError(f"{folder}/config.json says {architecture}: that is no classifier of pictures")
        labels = distinct(from_json(config["id2label"], f"{folder}/config.json"))
        declared = Declared(("config.json",), labels=labels, name=config.get("model_type"))
    if any(key in prepared for key in ("do_normalize", "do_rescale", "image_mean", "do_resize")):
        try:
            declared = declared.over(_prepared(prepared))
        except (TypeError, ValueError, KeyError, AttributeError) as err:
            raise ExportError(f"{folder}/preprocessor_config.json: cannot be read ({err!r})") from err
    return declared


def _prepared(config: dict[str, Any]) -> Declared:
    """transformers' image processors: resize, crop, rescale, normalize, each with its own switch."""
    size, resizing, notes = _resized(config)
    return Declared(("preprocessor_config.json",), _normalized(config), size, resizing, notes=notes)


def _normalized(config: dict[str, Any]) -> Pixels | None:
    """What becomes of the pixels; None where that needs a mean, and the file leaves it to the library's class."""
    if config.get("do_normalize") and config.get("image_mean") is None:
        return None
    divisor = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if config.get("do_rescale", True):
        divisor = 1 / float(config.get("rescale_factor", 1 / 255))
        divisor = round(divisor, 6)
    if config.get("do_normalize", True) and config.get("image_mean") is not None:
        mean, std = _each(config["image_mean"]), _each(config["image_std"])
    if config.get("rescale_offset"):  # EfficientNet's: from 0-255 to -1-1, and then the mean
        mean = tuple(m + 1 for m in mean)
    if config.get("include_top"):  # EfficientNet's: divided by the deviation once more
        std = tuple(np.multiply(std, _each(config["image_std"])).tolist())
    return Pixels(divisor, mean, std, bool(config.get("do_flip_channel_order")))


def _resized(config: dict[str, Any]) -> tuple[tuple[int, int] | None, Resizing | None, tuple[str, ...]]:
    """The size (H, W), how pictures are brought to it, and what of that cannot be followed here."""
    named = config.get("resample", 2)
    resample = _FILTERS.get(named, named if named in _FILTERS.values() else "bilinear")
    side, crop = config.get("size"), config.get("crop_size")
    short = side if isinstance(side, int) else (side or {}).get("shortest_edge")
    before = _before_crop(config, short)
    size = _size(crop) if config.get("do_center_crop") and crop is not None else _size(side)
    resizing: Resizing | None = None
    notes: tuple[str, ...] = ()
    if not config.get("do_resize", True):
        resizing = None
    elif config.get("crop_pct") and short and not crop:  # ConvNext's: a crop below 384 pixels, squashed from there on
        size = (short, short)
        resizing = Resizing("crop", before, resample) if short < 384 else Resizing("squash", None, resample)
    elif short and config.get("do_center_crop") and crop is not None:
        resizing = Resizing("crop", before, resample)
    elif config.get("do_center_crop") and crop is not None and _size(side) == size:
        resizing = Resizing("squash", None, resample)
    elif config.get("do_center_crop") and crop is not None and (squashed := _size(side)) and size:
        if squashed[0] * size[1] == squashed[1] * size[0] and squashed[0] == squashed[1]:
            notes = (f"preprocessor_config.json squashes to {squashed[0]} and crops {size[0]}: the nearest is a crop",)
            resizing = Resizing("crop", squashed[0], resample)
    elif size:
        resizing = Resizing("squash", None, resample)
        if isinstance(side, dict) and "shortest_edge" in side:
            notes = ("preprocessor_config.json keeps proportions and crops nothing: here pictures are squashed",)
    return size, resizing, notes


def _each(value: Any) -> tuple[float, ...]:
    """transformers' mean or std: a number for all channels, or one for each."""
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


def _before_crop(config: dict[str, Any], short: int | None) -> int | None:
    """Pixels of the shorter side before the crop: `short`, or what some of the library's classes make of it."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    if short and config.get("crop_pct"):  # ConvNext's and PoolFormer's
        return int(short / float(config["crop_pct"]))
    return int(256 / 224 * short) if short and kind.startswith("Levit") else short and int(short)


def _size(value: Any) -> tuple[int, int] | None:
    """(H, W) of transformers' {"height", "width"}, {"shortest_edge"} or a whole number."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    if isinstance(value, dict) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    if isinstance(value, dict) and "shortest_edge" in value:
        return int(value["shortest_edge"]), int(value["shortest_edge"])
    return None
