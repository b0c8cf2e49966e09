"""What people write class names in -> a list of different names in the order of the outputs.

A list on the command line, a file of one name a line, "0 name" a line (Teachable Machine's), or JSON. Knows no model.
"""

import ast
import json
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.artifact.errors import ExportError

_NUMBERED = re.compile(r"\s*(\d+)(?:\s*[:,;]\s*|\s+)(.*\S)\s*")


def read_labels(text: str) -> list[str]:
    """The names in `text`: a file's, or a list a,b,c. Raises ExportError."""
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # a list can be longer than a file's name may be
        is_file = False
    if is_file:
        return distinct(_from_file(path))
    if path.suffix.lower() in (".txt", ".json", ".names", ".csv") and "," not in text:
        raise ExportError(f"--labels {text}: no such file")
    labels = [label.strip() for label in text.split(",")]
    if "" in labels or len(set(labels)) < len(labels):
        raise ExportError(f"--labels must be different names, got {','.join(labels)}")
    _check(labels)
    return labels


def _from_file(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        # PowerShell writes UTF-16 into files
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except OSError as err:
        raise ExportError(f"--labels {path}: cannot be read ({err.strerror})") from err
    except UnicodeDecodeError as err:
        raise ExportError(f"--labels {path}: is no UTF-8 ({err.reason} at byte {err.start + 1}): save it so") from err
    if text.lstrip()[:1] in ("[", "{"):
        return from_json(_value(text, path), str(path))
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or "" in lines:
        empty = f"line {lines.index('') + 1} is empty" if lines else "the file is empty"
        raise ExportError(f"--labels {path}: needs one name a line, but {empty}")
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(match and int(match[1]) == i for i, match in enumerate(numbered)):
        return [match[2] for match in numbered if match]
    return lines


def _value(text: str, path: Path) -> Any:
    """What JSON says, or Python: the well-known list of ImageNet's names is a dictionary of Python."""
    try:
        return json.loads(text)
    except ValueError as err:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise ExportError(f"--labels {path}: is no valid JSON ({err})") from err
        return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value


def from_json(value: Any, where: str) -> list[str]:
    """Names from a JSON list, from number -> name, or from name -> number. Raises ExportError."""
    if isinstance(value, dict) and value and all(_is_index(v) for v in value.values()) and not _numbers(value):
        value = {str(index): name for name, index in value.items()}
    if isinstance(value, dict) and _numbers(value):
        names = {int(index): name for index, name in value.items()}
        if sorted(names) != list(range(len(names))):
            raise ExportError(f"{where}: the classes are numbered from 0 without gaps, got {sorted(names)[:20]}")
        value = [names[i] for i in range(len(names))]
    if not isinstance(value, list) or not value:
        raise ExportError(f"{where}: expected a list of names, or number -> name")
    # Keras' imagenet_class_index.json gives [WordNet's number, name] for each
    entries = [item[-1] if isinstance(item, list) and item else item for item in value]
    if not all(isinstance(name, str | int) for name in entries):
        raise ExportError(f"{where}: expected a list of names, or number -> name")
    return [str(name).strip() for name in entries]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())


def _numbers(value: dict[str, Any]) -> bool:
    return all(str(key).isdecimal() for key in value)


def _check(labels: Sequence[str]) -> None:
    """Raise ExportError where a name cannot stand in a line: it has a line's end, or half a character of JSON's."""
    for i, label in enumerate(labels):
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
            raise ExportError(f"the name of class {i}, {label[:80]!a}, holds what is no character of a line")


def distinct(labels: Sequence[str]) -> list[str]:
    """The names, each again followed by its number where another class has it too: ImageNet has two cranes.

    Raises ExportError.
    """
    _check(labels)
    return [f"{label} ({i})" if labels.count(label) > 1 or not label else label for i, label in enumerate(labels)]
