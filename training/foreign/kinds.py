"""A file or folder -> what kind of model it is, by its contents. Opens no model and imports no framework."""

import importlib.util
import zipfile
from pathlib import Path

from training.artifact.errors import ExportError

KINDS = {
    "onnx": "an ONNX file, or a folder that holds one (optimum's, with its config.json)",
    "keras": "a .keras or .h5 file of Keras",
    "saved_model": "a SavedModel folder of TensorFlow",
    "tflite": "a .tflite file",
}
NEED_TENSORFLOW = ("keras", "saved_model", "tflite")

_LFS = b"version https://git-lfs"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# What people try, and what makes a file of it that can be published
_OTHERS = {
    ".pt": "a PyTorch checkpoint: export it with torch.onnx.export (free batch: dynamic_axes={0: {0: 'N'}})",
    ".pth": "a PyTorch checkpoint: export it with torch.onnx.export (free batch: dynamic_axes={0: {0: 'N'}})",
    ".safetensors": "weights without their network: export the model with torch.onnx.export or optimum-cli",
    ".bin": "weights without their network: export the model with optimum-cli export onnx",
    ".pkl": "a pickle, which is not opened: export scikit-learn's model with skl2onnx.to_onnx",
    ".joblib": "a pickle, which is not opened: export scikit-learn's model with skl2onnx.to_onnx",
    ".pdmodel": "a PaddlePaddle model: convert it with paddle2onnx",
    ".pdparams": "PaddlePaddle's weights without their network: export the model with paddle2onnx",
    ".mlmodel": "a Core ML model, which is not read: export the original to ONNX",
    ".pb": "one graph of TensorFlow: name the SavedModel's folder, which has saved_model.pb and variables/",
    ".engine": "a TensorRT engine, made for one GPU: publish the ONNX file that it was built from",
    ".ort": "ONNX Runtime's own format: publish the ONNX file that it was made from",
    ".xml": "an OpenVINO graph: publish the ONNX file that it was made from",
    ".torchscript": "a TorchScript file: export the original with torch.onnx.export",
    ".mar": "an archive of TorchServe: export the model in it with torch.onnx.export",
    ".plan": "a TensorRT engine, made for one GPU: publish the ONNX file that it was built from",
    ".trt": "a TensorRT engine, made for one GPU: publish the ONNX file that it was built from",
    ".caffemodel": "a Caffe model, which is not read: convert it to ONNX",
    ".ckpt": "a checkpoint: export the model to ONNX with the library that wrote it",
}
_ARCHIVE = "an archive: unpack it and name the file inside"
_PICKLE = "a pickle, which is not opened: export its model to ONNX"
# The same by the first bytes, whatever the file is called. An ONNX file begins with its version: 0x08.
_BEGINNINGS = {
    b"PK\3\4": _ARCHIVE,
    b"\x1f\x8b": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    **{b"\x80%c" % protocol: _PICKLE for protocol in range(2, 6)},
    b"GGUF": "a GGUF file, which holds a language model",
    b"\x93NUMPY": "an array of NumPy: name the model",
    b"<": "a web page or XML, not the model: look at what was downloaded",
    b"{": "JSON, not the model: name the file with the network",
}


def kind_of(path: Path) -> str:
    """One of KINDS. Raises ExportError that says what the file is instead."""
    if not path.exists():
        raise ExportError(f"{path}: not a readable .keras file or another model: no such file or folder")
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        if any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx")):
            return "onnx"
        if (path / "keras_model.h5").is_file():
            raise ExportError(f"{path}: name the file inside: {path / 'keras_model.h5'}")
        other = next((file for file in sorted(path.iterdir()) if file.suffix.lower() in _OTHERS), None)
        hint = f"; {other.name} is {_OTHERS[other.suffix.lower()]}" if other is not None else ""
        raise ExportError(f"{path}: holds neither a SavedModel (saved_model.pb) nor an ONNX file{hint}")
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as err:
        raise ExportError(f"{path}: cannot be read ({err.strerror})") from err
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(_HDF5) or suffix in (".keras", ".h5", ".hdf5") or _is_keras_archive(path):
        return "keras"
    if suffix == ".tflite":
        raise ExportError(f"{path}: is truncated or no .tflite file")
    if head.startswith(_LFS):
        raise ExportError(f"{path}: is a pointer of Git LFS, not the model: run `git lfs pull` first")
    if suffix in _OTHERS:
        raise ExportError(f"{path}: is {_OTHERS[suffix]}")
    for beginning, kind in _BEGINNINGS.items():
        if head.lstrip().startswith(beginning):
            raise ExportError(f"{path}: is {kind}")
    return "onnx"


def _is_keras_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "config.json" in archive.namelist() and "model.weights.h5" in archive.namelist()


def without_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is None
