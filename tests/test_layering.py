"""The two halves share the artifact and the one decoder of pictures, nothing else; and imports point one way."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"serving.images", "serving.errors"}  # with training: docs/decisions/0008-one-decoder.md
TRAINING_ONLY = {"training", "keras", "tensorflow", "tf2onnx", "sklearn", "matplotlib"}

# Every room and lone module of the two halves, and what it may import of its own half beside itself.
ROOMS: dict[str, tuple[str, ...]] = {
    "serving.errors": (),
    "serving.processes": (),
    "serving.client": ("serving.errors",),  # runs where the service is not installed; no room may import it
    "serving.settings": ("serving.errors",),
    "serving.platforms": ("serving.errors",),
    "serving.artifacts": ("serving.errors",),
    "serving.images": ("serving.errors",),
    "serving.engine": ("serving.artifacts", "serving.errors", "serving.processes"),
    "serving.operations": ("serving.errors", "serving.processes", "serving.settings"),
    "serving.edge": ("serving.errors", "serving.operations", "serving.processes"),
    "serving.repository": (
        "serving.engine",
        "serving.images",
        "serving.operations",
        "serving.artifacts",
        "serving.processes",
        "serving.settings",
        "serving.errors",
    ),
    "serving.protocols": (
        "serving.edge",
        "serving.repository",
        "serving.images",
        "serving.operations",
        "serving.platforms",
        "serving.settings",
        "serving.errors",
    ),
    "training.data": tuple(sorted(SHARED)),
    "training.networks": (),
    "training.recipes": (*sorted(SHARED), "training.networks"),
    "training.artifact": ("training.data", "training.recipes"),
    "training.foreign": ("training.data", "training.artifact"),
    "training.runs": ("training.data", "training.networks", "training.recipes", "training.artifact"),
}
# They may import every room; no room imports them.
FRONT_DOORS = (
    "serving.assembly",
    "serving.service",
    "serving.classify",
    "serving.bulk",
    "serving.fetch",
    "serving.keys",
    "training.fit",
    "training.export",
    "training.publish",
    "training.evaluate",
    "training.cards",
    "training.features",
    "training.unfamiliar",
    "study",
)


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in it; `from a import b` names a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides which module it means"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path for half in ("serving", "training", "study") for path in sorted((ROOT / half).rglob("*.py"))
}


@cache
def imports_of(name: str) -> set[str]:
    return imported(MODULES[name])


def belongs_to(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def own_imports(name: str) -> set[str]:
    """The modules of its own half that a module imports, itself and packages left out."""
    return {
        other
        for other in MODULES
        if other in imports_of(name) and "." in other and other != name and MODULES[other].name != "__init__.py"
    }


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    lines = ["import a.b as c", "from d import e", "def f():", "    try:", "        import g"]
    source = "\n".join([*lines, "    except ImportError:", "        from h.i import j"])
    (tmp_path / "module.py").write_text(source)
    assert imported(tmp_path / "module.py") == {"a.b", "d", "d.e", "g", "h.i", "h.i.j"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("serving")])
def test_serving_never_imports_training_or_its_libraries(name: str) -> None:
    assert [other for other in sorted(imports_of(name)) if belongs_to(other, TRAINING_ONLY)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("training")])
def test_training_imports_the_decoder_and_nothing_else_of_serving(name: str) -> None:
    foreign = [other for other in imports_of(name) if belongs_to(other, {"serving", "bentoml"})]
    assert sorted(other for other in foreign if other != "serving" and not belongs_to(other, SHARED)) == []


@pytest.mark.parametrize("name", [name for name in MODULES if belongs_to(name, {"serving.images"})])
def test_the_decoder_needs_pillow_and_numpy_alone(name: str) -> None:
    foreign = {other.partition(".")[0] for other in imports_of(name)} - set(sys.stdlib_module_names)
    assert foreign <= {"PIL", "numpy", "serving"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("study")])
def test_the_study_never_imports_serving(name: str) -> None:
    assert [other for other in sorted(imports_of(name)) if belongs_to(other, {"serving", "bentoml"})] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    allowed = {room, *ROOMS[room]}
    for name in MODULES:
        if belongs_to(name, (room,)):
            foreign = {other for other in own_imports(name) if not belongs_to(other, tuple(allowed))}
            assert not foreign, f"{name} may import {', '.join(sorted(allowed))}, but imports {', '.join(foreign)}"


def test_every_module_is_in_a_room_or_a_front_door() -> None:
    rooms = (*ROOMS, *FRONT_DOORS)
    lost = [name for name in MODULES if "." in name and not belongs_to(name, rooms)]
    assert not lost, f"{', '.join(lost)}: in no room; put it into one, or give it a row in ROOMS"


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_nothing_imports_a_front_door(door: str) -> None:
    importers = [name for name in MODULES if not belongs_to(name, FRONT_DOORS) and door in imports_of(name)]
    assert importers == []


PROTOCOLS = [name for name, path in MODULES.items() if "Protocol(" in path.read_text() and ".protocols." in name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_protocol_imports_another(name: str) -> None:
    assert [other for other in PROTOCOLS if other != name and other in imports_of(name)] == []


# Who may read or write JSON, and of what. A protocol's is written in serving/protocols alone.
JSON = {
    "serving.edge.http1": "what is said of bytes that are no request, before there is a route",
    "serving.artifacts": "cards",
    "serving.classify": "what it prints",
    "serving.fetch": "a card's name",
    "serving.client": "what it asks for and gets",
    "serving.engine.measurements": "its file",
    "serving.engine.probing": "what child processes say",
    "serving.operations": "logs, and files that processes share",
    "serving.platforms": "what a platform's environment holds",
    "serving.repository.models": "the file that a worker reads of what its parent has found",
}


def test_protocols_alone_write_a_protocols_json() -> None:
    writers = {name for name in MODULES if name.startswith("serving.") and "json" in imports_of(name)}
    foreign = {name for name in writers if not belongs_to(name, ("serving.protocols", *JSON))}
    assert not foreign, f"{', '.join(sorted(foreign))}: give values to serving/protocols, which writes them"
    assert [name for name in JSON if not any(belongs_to(writer, (name,)) for writer in writers)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if belongs_to(name, ("serving.repository",))])
def test_the_data_plane_knows_no_protocol(name: str) -> None:
    """It answers with values: no status, no header, no JSON of an answer."""
    source = MODULES[name].read_text()
    for word in ("Response(", "json_response", "headers", ".status ", ".status)", "content-type"):
        assert word not in source, f"{name} holds {word!r}"


def test_a_failure_knows_no_protocol() -> None:
    """It has a code, a status and what follows from its kind: no header, no JSON."""
    source = MODULES["serving.errors"].read_text()
    for word in ("headers:", "headers =", "retry-after", '"error"', "def body"):
        assert word not in source, f"serving.errors holds {word!r}"


@pytest.mark.parametrize("name", ["serving.repository.predictor", "serving.repository.answers"])
def test_the_synchronous_way_needs_no_loop(name: str) -> None:
    """Nor does what it imports of its own room import one into it."""
    assert "asyncio" not in imports_of(name)


def test_no_imports_run_in_a_circle() -> None:
    left = {name: own_imports(name) for name in MODULES}
    while leaves := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert left == {}
