"""All served models of one process: which model a request means, and what has changed in the folder since.

Loads what `artifacts` selects through `runtime`. A repository never changes: a new version makes a new one, which
shares what stayed. Knows nothing of HTTP.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving import artifacts
from serving.engine import selection as runtime
from serving.engine.measurements import Measurements
from serving.engine.providers import Backend
from serving.errors import StartError, Unavailable, UnknownModel
from serving.repository.served import ServedModel
from serving.settings import Settings

Stamp = tuple[tuple[str, int, int], ...]


def verify(settings: Settings, threads: int, measurements: Measurements) -> Iterator[str]:
    """In the parent, before any worker: read every artifact and decide how it will run; yields a line for each.

    Raises StartError for what would stop a Repository.
    """
    for path in _selected(settings):
        yield runtime.choose(artifacts.read(path), measurements, settings.provider, settings.precision, threads)


def _selected(settings: Settings) -> list[Path]:
    paths = artifacts.select(settings.models, settings.versions)
    names = dict.fromkeys(path.parent.name for path in paths)
    if settings.default_model not in names:
        raise StartError(
            f"SHORTCUT_DEFAULT_MODEL={settings.default_model}: no such model in {settings.models}; "
            f"there is {', '.join(names)}"
        )
    return paths


class Repository:
    """Every loaded model. Raises StartError if the default cannot be served.

    The parent has found all of it sound before (`verify`); a version that is not, or no longer, came later, and then
    the newest sound one before it is served in its place.
    """

    def __init__(self, settings: Settings, threads: int, measurements: Measurements):
        self.default = settings.default_model
        self.refused: dict[Path, str] = {}  # versions that cannot be served, and why
        self._settings, self._threads, self._measurements = settings, threads, measurements
        self._stamps: dict[Path, Stamp] = {}
        self._models: dict[str, dict[int, ServedModel]] = {}
        self._take(_selected(settings), self)

    def renewed(self) -> "Repository | None":
        """What is to be served after another look at the folder; None if nothing in it has changed.

        New versions are verified and warmed here, which may take seconds. One that cannot be served is named in
        `refused`; where no other was asked for, the model stays as it is. Raises StartError if the folder or the
        default model is gone.
        """
        paths = _selected(self._settings)
        if {path: _stamp(path) for path in paths} == self._stamps:
            return None
        new = copy.copy(self)
        new._take(paths, self)
        return new

    def _take(self, paths: list[Path], before: "Repository") -> None:
        """Serve `paths`, and of `before` what is the same."""
        stamps = {path: _stamp(path) for path in paths}
        models: dict[str, dict[int, ServedModel]] = {}
        refused: dict[Path, str] = {}
        for name in dict.fromkeys(path.parent.name for path in paths):
            old = before._models.get(name, {})
            versions: dict[int, ServedModel] = {}
            for path in (path for path in paths if path.parent.name == name):
                same, number = stamps[path] == before._stamps.get(path), int(path.name)
                try:
                    if same and path in before.refused:
                        raise StartError(before.refused[path])
                    versions[number] = old[number] if same and number in old else self._load(path)
                except StartError as err:
                    refused[path] = str(err)
                    if number in old:  # changed where it lies, and badly: what was loaded goes on
                        versions[number] = old[number]
            versions = versions or old or self._earlier(name, refused)
            if versions:
                models[name] = versions
        if self.default not in models:
            raise StartError("; ".join(reason for path, reason in refused.items() if path.parent.name == self.default))
        self._stamps, self._models, self.refused = stamps, models, refused

    def _load(self, path: Path) -> ServedModel:
        artifact = artifacts.read(path)

        def load(without: Backend | None = None) -> runtime.Model:
            settings = self._settings
            return runtime.load(
                artifact, self._measurements, settings.provider, settings.precision, self._threads, without
            )

        return ServedModel(load(), self._settings, load)

    def _earlier(self, name: str, refused: dict[Path, str]) -> dict[int, ServedModel]:
        """The newest version of a model that is not refused and can be served."""
        for path in artifacts.versions_of(self._settings.models / name):
            if path not in refused:
                try:
                    return {int(path.name): self._load(path)}
                except StartError as err:
                    refused[path] = str(err)
        return {}

    def succeed(self, before: "Repository | None") -> None:
        """From now on it is served, and not `before`: say so of what is new and of what is gone. Requests under way end
        first."""
        mine, theirs = ({id(served): served for served in some or ()} for some in (self, before))
        for one in mine.keys() - theirs.keys():
            mine[one].adopt()
        for one in theirs.keys() - mine.keys():
            theirs[one].retire()

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for versions in self._models.values() for model in versions.values())

    @property
    def computes(self) -> bool:
        """Whether every model can: none has lost its execution provider."""
        return all(served.computes for served in self)

    def find(self, name: str | None = None, version: int | None = None) -> ServedModel:
        """The named model (or the default) in the given version (or its latest). Raises UnknownModel, or Unavailable
        where it is refused."""
        name = self.default if name is None else name
        versions = self._models.get(name)
        if versions is None and any(path.parent.name == name for path in self.refused):
            raise Unavailable(f"{_shown(name)} cannot be served at the moment: GET /models says why")
        if versions is None:
            raise UnknownModel(f"no model {_shown(name)}; there is {', '.join(self._models)}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise UnknownModel(f"{name} has no version {version}; there is {', '.join(map(str, sorted(versions)))}")
        return versions[version]

    def describe(self) -> dict[str, Any]:
        """The body of GET /models."""
        return {
            "default": self.default,
            "models": [
                {"name": name, "versions": [versions[v].describe() for v in sorted(versions)]}
                for name, versions in self._models.items()
            ],
            "refused": [
                {"name": path.parent.name, "version": int(path.name), "error": reason}
                for path, reason in self.refused.items()
            ],
        }

    def describe_model(self, name: str) -> dict[str, Any]:
        """The body of GET /models/{name}: what GET /models says of it, and the latest version's card."""
        latest = self.find(name)
        versions = self._models[name]
        return {
            "name": name,
            "default": name == self.default,
            "versions": [versions[v].describe() for v in sorted(versions)],
            "card": latest.artifact.card,
        }


def _stamp(path: Path) -> Stamp:
    """What changes when a version's files do."""
    found = []
    for name in artifacts.FILES:
        try:
            status = (path / name).stat()
        except OSError:
            continue
        found.append((name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _shown(text: str) -> str:
    """Client text in a message: quoted, printable, short."""
    return ascii(text[:80])
