"""All served models of one process: which model a request means, and what has changed in the folder since.

Loads what `artifacts` selects. A repository never changes: a new version makes a new one, which shares what stayed, and
does not keep the one before. Knows nothing of HTTP.
"""

import functools
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from serving import artifacts
from serving.engine import cores, memory, selection
from serving.engine.measurements import Measurement, Measurements
from serving.engine.providers import Backend
from serving.errors import StartError, Unavailable, UnknownModel
from serving.repository import shadow
from serving.repository.cache import AnswerCache
from serving.repository.residency import Residency
from serving.repository.runner import Lost, stay
from serving.repository.served import ServedModel
from serving.repository.unsure import UnsurePictures
from serving.settings import Settings

Stamp = tuple[str, tuple[tuple[str, int, int, int, int], ...]]
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 2.0, 300.0  # until a refused version is tried again
AT_ONCE = 4  # artifacts that are verified: each takes the memory of a batch of 32 meanwhile
STARTED_WITH = "versions.json"  # in the folder that the processes share: what the parent has verified


class Started(NamedTuple):
    """What the parent has found of a version."""

    identity: str
    checked: Measurement | None  # where it has compared all golden images on the backend that workers load


class Refusal(NamedTuple):
    """Why a version is not served. The reason may pass: it is tried again at `again`, by time.monotonic()."""

    reason: str
    seconds: float = FIRST_RETRY_SECONDS  # to the next try; twice as long each time
    again: float = 0.0


def verify(
    settings: Settings, threads: int, measurements: Measurements, shared: Path | None = None
) -> Iterator[tuple[str, Measurement]]:
    """In the parent, before any worker: read every artifact, and decide how it will run. Yields the name of each, and
    what is known of how it will run.

    Leaves in the `shared` folder which contents the service starts with. Raises StartError for what would stop a
    Repository.
    """
    wanted = options(settings, threads)

    def look(path: Path) -> tuple[str, Measurement, str, Measurement]:
        artifact = artifacts.read(path)
        model, known = selection.choose(artifact, measurements, wanted)
        # Not the model, whose memory the next one needs.
        return artifact.identity, selection.measurement_of(model), model.name, known

    contents = {}
    paths = [*_selected(settings)[0], *_shadows(settings)]
    at_once = 1 if memory.short() else AT_ONCE
    pool = ThreadPoolExecutor(min(at_once, max(1, cores.available() // threads)))
    try:
        for path, (identity, checked, name, known) in zip(paths, pool.map(look, paths), strict=True):
            contents[str(path)] = identity, checked.as_json() if checked.backend == selection.CPU else None
            yield name, known
    finally:
        pool.shutdown(cancel_futures=True)
    if shared is not None:
        (shared / STARTED_WITH).write_text(json.dumps(contents))


def options(settings: Settings, threads: int) -> selection.Options:
    return selection.Options(settings.provider, settings.precision, threads, bool(settings.cuda_graphs))


def started_with(shared: Path | None) -> dict[str, Started]:
    """What the parent has found of each version, by its path; empty if nobody knows."""
    try:
        entries = json.loads((shared / STARTED_WITH).read_bytes()) if shared is not None else {}
        return {
            path: Started(identity, checked and Measurement.from_json(checked))
            for path, (identity, checked) in entries.items()
        }
    except (OSError, KeyError, ValueError, TypeError, AttributeError):
        return {}


def _selected(settings: Settings, before: str | None = None) -> tuple[list[Path], str]:
    """The folders to load, and the default model."""
    paths = artifacts.select(settings.models, settings.versions, shadow.versions(shadow.wanted(settings.shadow)))
    default = _default(settings, paths, before)
    if default is None:
        there = ", ".join(dict.fromkeys(path.parent.name for path in paths))
        raise StartError(
            f"SHORTCUT_DEFAULT_MODEL={settings.default_model}: no such model in {settings.models}; there is {there}"
        )
    return paths, default


def _shadows(settings: Settings) -> list[Path]:
    """The folders that are loaded beside what `_selected` says."""
    return [settings.models / name / str(one.version) for name, one in shadow.wanted(settings.shadow).items()]


def _default(settings: Settings, paths: list[Path], before: str | None = None) -> str | None:
    """The model that the settings name; where they name none, the only one there is; where others have joined that
    since, still the one of `before`. None if none of these is among `paths`."""
    names = list(dict.fromkeys(path.parent.name for path in paths))
    if settings.default_model in names:
        return settings.default_model
    if settings.default_model != Settings.default_model:  # somebody has asked for it
        return None
    return before if before in names else names[0] if len(names) == 1 else None


def folder_of(settings: Settings, name: str | None = None, version: int | None = None) -> Path:
    """The folder of the model that a request of that name (or none) and version (or the latest) would mean, without
    loading any. Raises StartError, which says what there is."""
    if name is None:
        name = _selected(replace(settings, shadow=""))[1]
    versions = settings.versions if version is None else f"{name}:{version}"
    paths, name = _selected(replace(settings, default_model=name, versions=versions, shadow=""))
    return max((path for path in paths if path.parent.name == name), key=lambda path: int(path.name))


class Repository:
    """Every loaded model. Raises StartError if the default cannot be served.

    The parent has found all of it sound before (`verify`); a version that is not, or no longer, came later, and then
    the newest sound one before it is served in its place. `contents` are those that the service started with: a
    version that was changed where it lies since then is refused, or two workers would answer differently in its name.
    """

    def __init__(
        self,
        settings: Settings,
        threads: int,
        measurements: Measurements,
        contents: Mapping[str, Started] | None = None,
        before: "Repository | None" = None,
        lost: Lost = stay,
    ):
        self.refused: dict[Path, Refusal] = {}  # versions that cannot be served
        self._settings, self._threads, self._measurements, self._lost = settings, threads, measurements, lost
        self._cache: AnswerCache | None = _cache(settings) if before is None else before._cache
        self._residency: Residency | None = _residency(settings) if before is None else before._residency
        self._unsure: UnsurePictures | None = _unsure(settings) if before is None else before._unsure
        self._contents = contents or {}
        self.models: dict[str, dict[int, ServedModel]] = {}  # by name and version
        # A worker that replaces another, in a service that does not watch its folder, serves what that has served.
        shadows = _shadows(settings)
        paths = [path for path in map(Path, self._contents) if path.is_dir() and path not in shadows]
        default = _default(settings, paths)
        if default is None:
            paths, default = _selected(settings, None if before is None else before.default)
        self.default: str = default
        self._stamps = {path: _stamp(path) for path in (*paths, *shadows)}
        self.shadows: dict[str, ServedModel] = {}  # by the name of the model
        self.shares = {name: one.share for name, one in shadow.wanted(settings.shadow).items()}
        for path in shadows:
            known = None if before is None else before.shadows.get(path.parent.name)
            loaded = self._version(path, {} if known is None else {int(path.name): known}, before)
            if loaded is not None:
                self.shadows[path.parent.name] = loaded
        for name in dict.fromkeys(path.parent.name for path in paths):
            self._load_model(name, [path for path in paths if path.parent.name == name], before)
        if self.default not in self.models:
            reasons = [one.reason for path, one in self.refused.items() if path.parent.name == self.default]
            raise StartError("; ".join(reasons))

    def renewed(self) -> "Repository | None":
        """What is to be served after another look at the folder; None if nothing in it has changed.

        New versions are verified and warmed here, which may take seconds. One that cannot be served is named in
        `refused`, and tried again less and less often; where no other was asked for, the model stays as it is. Raises
        StartError if the folder or the default model is gone.
        """
        paths, _ = _selected(self._settings, self.default)
        stamps = {path: _stamp(path) for path in (*paths, *_shadows(self._settings))}
        now = time.monotonic()
        if stamps == self._stamps and not any(refusal.again <= now for refusal in self.refused.values()):
            return None
        return Repository(self._settings, self._threads, self._measurements, before=self, lost=self._lost)

    def _load_model(self, name: str, paths: list[Path], before: "Repository | None") -> None:
        """Serve the versions `paths` of one model, and what of `before` is the same."""
        old = {} if before is None else before.models.get(name, {})
        versions: dict[int, ServedModel] = {}
        for path in paths:
            loaded = self._version(path, old, before)
            if loaded is not None:
                versions[int(path.name)] = loaded
        versions = versions or old or self._earlier(name)
        if versions:
            self.models[name] = versions

    def _version(self, path: Path, old: dict[int, ServedModel], before: "Repository | None") -> ServedModel | None:
        """One version: loaded, or of `old`, its model's in `before`, where that is the same; None where it is
        refused."""
        number = int(path.name)
        same = before is not None and self._stamps[path] == before._stamps.get(path)
        refusal = before.refused.get(path) if before is not None and same else None
        if same and refusal is None and number in old:
            return old[number]
        # Changed where it lies, and badly: what was loaded goes on.
        return self._try(path, refusal) or old.get(number)

    def _try(self, path: Path, refusal: Refusal | None) -> ServedModel | None:
        """The version loaded; None where it is refused, or was, and is not to be tried again yet."""
        if refusal is not None and time.monotonic() < refusal.again:
            self.refused[path] = refusal
            return None
        try:
            return self._load(path)
        except StartError as err:
            seconds = FIRST_RETRY_SECONDS if refusal is None else min(2 * refusal.seconds, LAST_RETRY_SECONDS)
            self.refused[path] = Refusal(str(err), seconds, time.monotonic() + seconds)
            return None

    def _load(self, path: Path) -> ServedModel:
        started, residency = self._contents.get(str(path)), self._residency
        checked = None if started is None else started.checked
        later = residency is not None and checked is not None  # all that is to be known of it is known
        artifact = artifacts.describe(path) if later else artifacts.read(path)
        if started is not None and started.identity != artifact.identity:
            raise StartError(f"{path}: was changed since the service started; publish it as a new version, or restart")
        # Not methods of this object, which would then stay in memory for as long as the model.
        wanted = options(self._settings, self._threads)
        faster = functools.partial(selection.faster, measurements=self._measurements, options=wanted)
        serve = functools.partial(ServedModel, settings=self._settings, faster=faster, residency=residency)
        if path in _shadows(self._settings):  # of which nothing may end the worker
            serve = functools.partial(serve, background=True)
        else:
            serve = functools.partial(serve, lost=self._lost, cache=self._cache, unsure=self._unsure)
        if residency is None:
            load = functools.partial(selection.load, artifact, self._measurements, wanted)
            return serve(load(checked=checked), load=load)
        again = functools.partial(_load_again, path, artifact.identity, self._measurements, wanted, checked)
        if checked is not None:
            return serve(selection.described(artifact, checked), load=again, resident=False)
        with residency.loading(artifact.bytes, artifact.bytes) as taken:
            model = selection.load(artifact, self._measurements, wanted)
        served = serve(model, load=again)
        residency.add(served.runner, taken.bytes)
        return served

    def _earlier(self, name: str) -> dict[int, ServedModel]:
        """The newest version of a model that is not refused and can be served."""
        for path in artifacts.versions_of(self._settings.models / name):
            if path not in self.refused and (loaded := self._try(path, None)) is not None:
                return {int(path.name): loaded}
        return {}

    def replace(self, before: "Repository | None") -> None:
        """Say in the metrics that this one is served from now on, and no longer `before`, whose requests under way end
        first."""
        mine, theirs = ({id(served): served for served in some or ()} for some in (self, before))
        for one in mine.keys() - theirs.keys():
            mine[one].start()
        for one in theirs.keys() - mine.keys():
            theirs[one].retire()
            theirs[one].after = None
        for versions in self.models.values():
            for served in versions.values():
                served.after = None
        for name, other in self.shadows.items():
            if name in self.models:
                latest = self.models[name][max(self.models[name])]
                latest.after = shadow.Shadow(other, latest, self.shares[name]).after

    def _served(self) -> Iterator[ServedModel]:
        return (model for versions in self.models.values() for model in versions.values())

    def __iter__(self) -> Iterator[ServedModel]:
        """All that is loaded: what is served, and shadows."""
        return itertools.chain(self._served(), self.shadows.values())

    @property
    def computes(self) -> bool:
        """Whether every model that is served can: none has lost its execution provider."""
        return all(served.computes for served in self._served())

    def find(self, name: str | None = None, version: int | None = None) -> ServedModel:
        """The named model (or the default) in the given version (or its latest). Raises UnknownModel, or Unavailable
        where it is refused."""
        name = self.default if name is None else name
        versions = self.models.get(name)
        if versions is None and any(path.parent.name == name for path in self.refused):
            raise Unavailable(f"{_shown(name)} cannot be served at the moment: GET /models says why")
        if versions is None:
            raise UnknownModel(f"no model {_shown(name)}; there is {', '.join(self.models)}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise UnknownModel(f"{name} has no version {version}; there is {', '.join(map(str, sorted(versions)))}")
        return versions[version]


def _cache(settings: Settings) -> AnswerCache | None:
    return AnswerCache(settings.answer_cache_bytes) if settings.answer_cache_bytes else None


def _residency(settings: Settings) -> Residency | None:
    return Residency(settings.resident_bytes) if settings.resident_bytes else None


def _unsure(settings: Settings) -> UnsurePictures | None:
    folder = settings.unsure_pictures
    return None if folder is None else UnsurePictures(folder, settings.unsure_bytes)


def _load_again(
    path: Path,
    identity: str,
    measurements: Measurements,
    wanted: selection.Options,
    checked: Measurement | None,
    without: Backend | None = None,
) -> selection.Model:
    """A version that was looked at before, verified again. Raises StartError where it is no longer the same."""
    artifact = artifacts.read(path)
    if artifact.identity != identity:
        raise StartError(f"{path}: was changed since the service began to serve it; publish it as a new version")
    return selection.load(artifact, measurements, wanted, without, checked)


def _stamp(path: Path) -> Stamp:
    """What changes when a version's files do, or the link that leads to them."""
    files = []
    for name in artifacts.FILES:
        try:
            status = (path / name).stat()
        except OSError:
            continue
        files.append((name, status.st_mtime_ns, status.st_size, status.st_dev, status.st_ino))
    return str(path.resolve()), tuple(files)


def _shown(text: str) -> str:
    """Client text in a message: quoted, printable, short."""
    return ascii(text[:80])
