"""Where the service runs, by its environment: on Amazon SageMaker, on Google Vertex AI, or on neither.

Both platforms say where they listen and ask by variables and folders of their own. Reads those, and nothing else.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import StartError

SAGEMAKER_FOLDER = Path("/opt/ml")  # SageMaker mounts it in every container that it starts
PORT = 8080  # of both platforms


@dataclass(frozen=True)
class Platform:
    """`port` is None where the platform names none. `models` is a folder of models that it has mounted."""

    sagemaker: bool = False
    vertex_health: str = ""
    vertex_predict: str = ""
    port: int | None = None
    models: Path | None = None

    @property
    def vertex(self) -> bool:
        return bool(self.vertex_predict)


def detect(environment: Mapping[str, str] | None = None, folder: Path = SAGEMAKER_FOLDER) -> Platform:
    """Raises StartError for a variable that cannot be."""
    environment = os.environ if environment is None else environment
    sagemaker = folder.is_dir() or any(name.startswith("SAGEMAKER_") for name in environment)
    health, predict = (environment.get(f"AIP_{what}_ROUTE", "") for what in ("HEALTH", "PREDICT"))
    vertex = bool(health or predict or environment.get("AIP_HTTP_PORT"))
    for name, path in (("AIP_HEALTH_ROUTE", health), ("AIP_PREDICT_ROUTE", predict)):
        if path and not path.startswith("/"):
            raise StartError(f"{name}={path}: must begin with a slash")
    port = environment.get("SAGEMAKER_BIND_TO_PORT" if sagemaker else "AIP_HTTP_PORT", str(PORT))
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise StartError(f"the platform asks for the port {port[:40]!a}: must be a whole number from 1 to 65535")
    return Platform(
        sagemaker=sagemaker,
        vertex_health=(health or "/health") if vertex else "",
        vertex_predict=(predict or "/predict") if vertex else "",
        port=int(port) if sagemaker or vertex else None,
        models=models_in(folder / "model") if sagemaker else None,
    )


def models_in(folder: Path) -> Path | None:
    """The folder of <model>/<version>/ artifacts that `folder` is. One that is a single version or a single model is
    linked into a folder made for it. None where it holds no model."""
    if next(folder.glob("*/*/model.onnx"), None) is not None:
        return folder
    versions = [folder] if (folder / "model.onnx").is_file() else sorted(folder.glob("[0-9]*"))
    cards = [version / "card.json" for version in versions if (version / "model.onnx").is_file()]
    if not cards:
        return None
    try:
        name = str(json.loads(cards[0].read_text())["name"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StartError(f"{cards[0]}: is no card that names its model ({err})") from err
    if "/" in name or name.startswith("."):
        raise StartError(f"{cards[0]}: {name[:80]!a} cannot name a model's folder")
    return _linked(folder, Path(name) if cards[0].parent != folder else Path(name) / "1")


def _linked(folder: Path, name: Path) -> Path:
    """A folder in which `name` leads to `folder`. Every process of the service makes the same one."""
    made = Path(tempfile.gettempdir(), f"shortcut-models-{os.getuid()}")
    try:
        (made / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if made.stat().st_uid != os.getuid():
            raise StartError(f"{made}: belongs to another user")
        with contextlib.suppress(FileExistsError):
            (made / name).symlink_to(folder, target_is_directory=True)
    except OSError as err:
        raise StartError(f"{made}: cannot be written ({err.strerror})") from err
    return made
