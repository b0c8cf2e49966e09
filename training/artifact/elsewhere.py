"""A published artifact -> the same model for somebody else's tools: a Hugging Face folder, an MLflow model, one file.

Copies the graph as it is and writes beside it what those tools read. Needs none of their libraries.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.artifact.errors import ExportError

_NEEDED = ("numpy", "onnx", "onnxruntime")


def publish_to(form: str, artifact: Path, output: Path) -> Path:
    """Write the artifact in the form `form`, one of FORMS, to `output`, and return where it lies. Raises ExportError.

    `output` must not exist, or be an empty folder. Nothing is left behind where writing fails.
    """
    try:
        card = json.loads((artifact / "card.json").read_text())
    except (OSError, ValueError) as err:
        raise ExportError(f"{artifact}: not a published artifact ({err})") from err
    if not (artifact / "model.onnx").is_file():
        raise ExportError(f"{artifact}: has no model.onnx")
    with (artifact / "model.onnx").open("rb") as graph:
        stated = card.get("files", {}).get("model.onnx", {}).get("sha256")
        if stated not in (None, hashlib.file_digest(graph, "sha256").hexdigest()):
            raise ExportError(f"{artifact}: model.onnx is not the one of its card: it was changed, or is damaged")
    if form == "onnx" and output.is_dir():
        output = output / f"{card['name']}.onnx"
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ExportError(f"{output}: exists already; choose another with --output")
    partial = output.with_name(f".{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        FORMS[form](artifact, card, partial)
        partial.rename(output)
    except OSError as err:
        raise ExportError(f"cannot write to {output}: {err.strerror or err}; nothing was written") from err
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
    return output


def _onnx(artifact: Path, card: dict[str, Any], output: Path) -> None:
    """The graph alone: its metadata holds the model's name and labels."""
    shutil.copyfile(artifact / "model.onnx", output)


def _hugging_face(artifact: Path, card: dict[str, Any], folder: Path) -> None:
    """model.onnx, config.json with `id2label`, preprocessor_config.json, the card, and README.md as a model card.

    https://huggingface.co/docs/hub/model-cards
    """
    folder.mkdir()
    for name in ("model.onnx", "card.json", "golden.npz"):
        shutil.copyfile(artifact / name, folder / name)
    labels = card["labels"]
    height, width, channels = card["input_shape"]
    config = {
        "model_type": "onnx",
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "num_labels": len(labels),
        "image_size": [height, width],
        "num_channels": channels,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", _preparation(card))
    (folder / "README.md").write_text(_model_card(card))


def _preparation(card: dict[str, Any]) -> dict[str, Any]:
    """The card's convention in the words of transformers' image processors. Scaling is inside the graph."""
    height, width, _ = card["input_shape"]
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
    preparation: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": False,
        "do_normalize": False,
        "do_resize": True,
        "resample": filters[card.get("resample", "bilinear")],
        "size": {"height": height, "width": width},
    }
    if card["input_convention"] == "centre_crop":
        preparation |= {"size": {"shortest_edge": card.get("resize_to") or min(height, width)}}
        preparation |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    return preparation | {"input_convention": card["input_convention"]}


def _model_card(card: dict[str, Any]) -> str:
    """README.md: the metadata that the Hub reads, what the card says, and how to ask the model."""
    metrics, data = card.get("metrics") or {}, card["dataset"]
    head: list[str] = ["---", "pipeline_tag: image-classification", "library_name: onnx", "tags:", "- onnx"]
    head += ["- image-classification"]
    if metrics.get("accuracy") is not None:
        head += [
            "model-index:",
            f"- name: {json.dumps(card['name'])}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(data.get('origin') or data['name'], ensure_ascii=False)}",
            f"      type: {json.dumps(data['name'], ensure_ascii=False)}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {metrics['accuracy']}",
        ]
    head.append("---")
    height, width, channels = card["input_shape"]
    labels = ", ".join(card["labels"][:20]) + (" …" if card["labels"][20:] else "")
    body = [f"# {card['name']}", "", f"A classifier of pictures with {len(card['labels'])} classes: {labels}.", ""]
    body += ["| | |", "| --- | --- |", f"| input `image` | uint8 (N, {height}, {width}, {channels}), red first |"]
    body += [f"| output `probabilities` | float32 (N, {len(card['labels'])}) |"]
    body += [f"| pictures of other sizes | {card['input_convention']}, {card.get('resample', 'bilinear')} |"]
    body += [f"| network | {card['network']}, {card['parameters']:,} parameters |"]
    body += [f"| trained on | {data.get('origin') or data['name']} |"]
    measured = [("accuracy", "accuracy"), ("calibration_error", "calibration error")]
    body += [f"| {name} | {metrics[key]:.4f} |" for key, name in measured if metrics.get(key) is not None]
    body += [f"| warning | {warning} |" for warning in card.get("warnings") or ()]
    body += ["", "Scaling and softmax are inside the graph.", "", "```python"]
    mode = "L" if channels == 1 else "RGB"
    body += ["import json", "", "import numpy as np", "import onnxruntime", "from PIL import Image", ""]
    body += ['labels = json.load(open("config.json"))["id2label"]']
    body += ['session = onnxruntime.InferenceSession("model.onnx")']
    body += [f'picture = Image.open("picture.png").convert("{mode}").resize(({width}, {height}))']
    body += [f"image = np.asarray(picture, np.uint8).reshape(1, {height}, {width}, {channels})"]
    body += ['(probabilities,) = session.run(["probabilities"], {"image": image})']
    body += ["print(labels[str(probabilities[0].argmax())], probabilities[0].max())", "```", ""]
    return "\n".join([*head, "", *body])


def _mlflow(artifact: Path, card: dict[str, Any], folder: Path) -> None:
    """MLmodel and the graph, of MLflow's flavour `onnx`, which `mlflow.pyfunc` loads too.

    https://mlflow.org/docs/latest/ml/model: JSON is YAML, so no library is needed to write it.
    """
    folder.mkdir()
    shutil.copyfile(artifact / "model.onnx", folder / "model.onnx")
    shutil.copyfile(artifact / "card.json", folder / "card.json")
    versions = card.get("libraries", {})
    pins = [f"{name}=={versions[name]}" for name in _NEEDED if name in versions]
    python = versions.get("python", platform.python_version())
    (folder / "requirements.txt").write_text("\n".join(["mlflow", *pins, ""]))
    _write_json(folder / "python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]})
    conda = [f"python={python}", "pip", {"pip": ["mlflow", *pins]}]
    _write_json(folder / "conda.yaml", {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": conda})
    signature = {
        "inputs": json.dumps([_tensor_spec("image", "uint8", card["input_shape"])]),
        "outputs": json.dumps([_tensor_spec("probabilities", "float32", [len(card["labels"])])]),
        "params": None,
    }
    flavours = {
        "onnx": {
            "onnx_version": versions.get("onnx", "1.20.0"),
            "data": "model.onnx",
            "code": None,
            "providers": ["CPUExecutionProvider"],
            "onnx_session_options": None,
        },
        "python_function": {
            "loader_module": "mlflow.onnx",
            "data": "model.onnx",
            "python_version": python,
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        },
    }
    model = {
        "flavors": flavours,
        "metadata": {"name": card["name"], "labels": card["labels"], "input_convention": card["input_convention"]},
        "signature": signature,
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "model_size_bytes": (folder / "model.onnx").stat().st_size,
    }
    _write_json(folder / "MLmodel", model)


def _tensor_spec(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


FORMS: dict[str, Callable[[Path, dict[str, Any], Path], None]] = {
    "hf-folder": _hugging_face,
    "mlflow": _mlflow,
    "onnx": _onnx,
}
