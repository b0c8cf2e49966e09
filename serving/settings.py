"""One frozen dataclass of every setting, read once from SHORTCUT_… environment variables.

Knows nobody: a field's metadata holds its limits and what it means, and the documentation is checked against it.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serving.errors import StartError

PREFIX = "SHORTCUT_"
MIB = 1024 * 1024
_OWN_MODELS = Path(__file__).resolve().parents[1] / "models"  # in a Bento the working directory is another one


def _number(default: int, meaning: str, low: int, high: int) -> Any:
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


def _choice(default: str, meaning: str, *choices: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "choices": choices})


def _text(default: Any, meaning: str, pattern: str = "", must: str = "") -> Any:
    """`must` says what it has to be where a `pattern` is given."""
    return field(default=default, metadata={"meaning": meaning, "pattern": pattern, "must": must})


def _keys(meaning: str) -> Any:
    return field(default=(), metadata={"meaning": meaning, "each": _key_hash}, repr=False)


def _origins(meaning: str) -> Any:
    return field(default=(), metadata={"meaning": meaning, "each": _origin})


def _key_hash(name: str, text: str) -> str:
    if not re.fullmatch("sha256:[0-9a-f]{64}", text):  # the value is not repeated: it may be a key put here by mistake
        raise StartError(f"{name}: every entry must be sha256:<64 hex digits>; python -m serving.keys makes one")
    return text.removeprefix("sha256:")


_ORIGIN = re.compile(r"\*|null|https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_ROOT_PATH = r"(/[A-Za-z0-9._~-]+)+"


def _origin(name: str, text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise StartError(f"{name}: {text!a} is no origin: give scheme://host or scheme://host:port, or * for all")
    return text.lower()


@dataclass(frozen=True)
class Settings:
    """Every setting with its default; `Settings.from_environment()` reads SHORTCUT_<FIELD>."""

    models: Path = _text(Path("models"), "folder of <model>/<version>/ artifacts")
    default_model: str = _text(
        "digits_cnn-mnist",
        "the model that answers when a request names none; left out, also the only one that there is",
    )
    versions: str = _text("", "versions to load: empty for the latest of each model, `all`, or `model:1,3 other:2`")
    shadow: str = _text(
        "",
        "a version that is asked what its model was asked, for comparison, and not served: `model:2`, or `model:2@0.1` "
        "for a tenth of the pictures",
    )
    provider: str = _choice(
        "auto", "what computes: CUDA or the CPU by ONNX Runtime, or OpenVINO", "auto", "cuda", "openvino", "cpu"
    )
    precision: str = _choice("auto", "`float32` forbids bf16 and TF32", "auto", "float32")
    cuda_graphs: int = _number(
        0, "1 lets CUDA repeat recorded runs (CUDA graphs), where that is measured to be faster", 0, 1
    )
    cache: Path = _text(Path("~/.cache/shortcut"), "folder that keeps which provider was measured to be the fastest")
    workers: int = _number(0, "server processes; 0 derives them from the cores and the provider", 0, 256)
    max_body_bytes: int = _number(32 * MIB, "bytes of a `/classify` body", 1, 2**31)
    max_batch_body_bytes: int = _number(64 * MIB, "bytes of a `/classify/batch` body", 1, 2**31)
    max_pixels: int = _number(64_000_000, "pixels of one image, checked before it is decoded", 1, 2**31)
    max_batch_images: int = _number(64, "images of one `/classify/batch` request", 1, 4096)
    explain_grid: int = _number(
        7,
        "parts of a side of the map that `explain=1` answers, which costs their square in images; 0 forbids it",
        0,
        32,
    )
    max_extra_fields: int = _number(16, "fields of a form beside its images", 0, 4096)
    max_header_bytes: int = _number(16 * 1024, "bytes of a request line with its headers", 1024, 2**20)
    head_seconds: int = _number(10, "seconds a client may take to send its headers", 1, 3600)
    body_seconds: int = _number(60, "seconds that a body may be behind the least rate; then it is cut", 1, 86_400)
    min_body_rate: int = _number(
        10_000, "bytes a second at which a body comes at least; one that goes on may take any time", 1, 2**31
    )
    idle_seconds: int = _number(75, "seconds until a connection without a request is closed", 1, 3600)
    max_connections: int = _number(
        1000,
        "open connections of one worker; for one more the longest idle is closed, or only a probe is answered on it",
        1,
        65_000,
    )
    max_bodies_bytes: int = _number(
        0, "bytes of all bodies that one worker receives at once; 0 derives them from the memory there is", 0, 2**40
    )
    queue: int = _number(
        512,
        "images that may wait for one model in one worker; fewer, where so many cannot be computed in time",
        1,
        100_000,
    )
    deadline_ms: int = _number(10_000, "milliseconds after which a waiting image is dropped", 1, 3_600_000)
    answer_cache_bytes: int = _number(
        0, "bytes of answers that one worker keeps, for pictures that are sent again; 0 keeps none", 0, 2**40
    )
    resident_bytes: int = _number(
        0,
        "bytes of models that one worker holds in memory; others are loaded when somebody asks, and the one used least "
        "lately goes out; 0 holds all",
        0,
        2**40,
    )
    unsure_pictures: Path | None = _text(
        None, "folder that keeps pictures whose answer was unsure, for sorting and training; empty keeps none"
    )
    unsure_bytes: int = _number(
        256 * MIB, "bytes that pictures in that folder may take, of all workers and models together", 1, 2**50
    )
    watch: int = _number(0, "1 takes up new and removed versions in the models folder without a restart", 0, 1)
    drain_seconds: int = _number(5, "seconds that requests are still answered after SIGTERM", 0, 20)
    protocols: str = _text(
        "", "front doors that are open, separated by commas, or `all`; empty for all but the cloud platforms'"
    )
    log_format: str = _choice("text", "how the log is written to stderr", "text", "json")
    access_log: str = _choice(
        "off",
        "a line for every request, or for all but successful probes (health and metrics)",
        "off",
        "on",
        "without_probes",
    )
    root_path: str = _text(
        "",
        "path below which a proxy shows the service, as `/classifier`; requests come with it or without it",
        _ROOT_PATH,
        "a path that begins with / and does not end with it",
    )
    trust_forwarded_prefix: int = _number(
        0, "1 takes the root path of a request from X-Forwarded-Prefix, which only a proxy may be able to send", 0, 1
    )
    cors_origins: tuple[str, ...] = _origins(
        "origins whose pages may ask from a browser, `https://host,…`, or `*`; none: only the service's own"
    )
    api_keys: tuple[str, ...] = _keys("hashes of the keys that may come in, `sha256:<hex>,…`; none: everybody may")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, models: Path | None = None) -> "Settings":
        """`models` is the default of the folder of that name, if not this project's own. Raises StartError naming the
        variable, its value and its limits."""
        environment = os.environ if environment is None else environment
        _refuse_unknown(environment, [PREFIX + spec.name.upper() for spec in fields(cls)])
        values: dict[str, Any] = {"models": models or _OWN_MODELS}
        for spec in fields(cls):
            name = PREFIX + spec.name.upper()
            text = environment.get(name, "").strip()
            if text:
                values[spec.name] = _parse(name, text, spec.default, spec.metadata)
        return cls(**values)


def _refuse_unknown(environment: Mapping[str, str], known: list[str]) -> None:
    """A misspelt setting is no setting: with SHORTCUT_API_KEY in place of SHORTCUT_API_KEYS everybody would come in."""
    for name in environment:
        if (
            name.upper().startswith(PREFIX)  # shortcut_api_keys is no setting either
            and name not in known
            and name not in _NOT_SETTINGS
            and not _is_link(name, environment)
        ):
            nearest = difflib.get_close_matches(name.upper(), known, 1, 0.0)
            raise StartError(f"{name}: there is no such setting; did you mean {nearest[0]}?")


_NOT_SETTINGS = ("SHORTCUT_TEST_DATA",)  # of the test suite
_LINK = re.compile(r"(SHORTCUT\w*?)_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def _is_link(name: str, environment: Mapping[str, str]) -> bool:
    """Whether Kubernetes sets it in every pod for a Service that is called shortcut, or begins so (service links)."""
    match = _LINK.fullmatch(name)
    return match is not None and f"{match[1]}_SERVICE_HOST" in environment


def _parse(name: str, text: str, default: Any, limits: Mapping[str, Any]) -> Any:
    if "choices" in limits and text not in limits["choices"]:
        raise StartError(f"{name}={text}: must be one of {', '.join(limits['choices'])}")
    if isinstance(default, int):
        low, high = limits["low"], limits["high"]
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise StartError(f"{name}={text}: must be a whole number from {low} to {high}")
    if isinstance(default, tuple):
        return tuple(limits["each"](name, part.strip()) for part in text.split(","))
    if limits.get("pattern") and not re.fullmatch(limits["pattern"], text):
        raise StartError(f"{name}={text}: must be {limits['must']}")
    return _expanded(name, text) if default is None or isinstance(default, Path) else type(default)(text)


def _expanded(name: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as err:  # HOME is not set, and the user has none
        raise StartError(f"{name}={text}: {err}") from err
