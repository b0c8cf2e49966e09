"""The two halves share the artifact and nothing else; imports point one way; and both decode a picture alike."""

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.images.picture import decode_image
from tests.fixtures.pictures import colours, encode
from training.data.pictures import decode, header

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"training", "keras", "tensorflow", "tf2onnx", "sklearn", "matplotlib"}

# Every room and lone module of the two halves, and what it may import of its own half beside itself.
ROOMS: dict[str, tuple[str, ...]] = {
    "serving.errors": (),
    "serving.processes": (),
    "serving.client": ("serving.errors",),  # runs where the service is not installed; no room may import it
    "serving.settings": ("serving.errors",),
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
        "serving.settings",
        "serving.errors",
    ),
    "training.data": (),
    "training.networks": (),
    "training.recipes": ("training.networks",),
    "training.artifact": ("training.data", "training.recipes"),
    "training.runs": ("training.data", "training.networks", "training.recipes", "training.artifact"),
}
# They may import every room; no room imports them.
FRONT_DOORS = (
    "serving.service",
    "serving.classify",
    "serving.keys",
    "training.fit",
    "training.export",
    "training.evaluate",
    "training.cards",
    "training.efficientnet_lite0",
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
IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def belongs_to(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def own_imports(name: str) -> set[str]:
    """The modules of its own half that a module imports, itself and packages left out."""
    return {
        other
        for other in MODULES
        if other in IMPORTS[name] and "." in other and other != name and MODULES[other].name != "__init__.py"
    }


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    lines = ["import a.b as c", "from d import e", "def f():", "    try:", "        import g"]
    source = "\n".join([*lines, "    except ImportError:", "        from h.i import j"])
    (tmp_path / "module.py").write_text(source)
    assert imported(tmp_path / "module.py") == {"a.b", "d", "d.e", "g", "h.i", "h.i.j"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("serving")])
def test_serving_never_imports_training_or_its_libraries(name: str) -> None:
    assert [other for other in sorted(IMPORTS[name]) if belongs_to(other, TRAINING_ONLY)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("training")])
def test_training_never_imports_serving_or_bentoml(name: str) -> None:
    assert [other for other in sorted(IMPORTS[name]) if belongs_to(other, {"serving", "bentoml"})] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("study")])
def test_the_study_never_imports_serving(name: str) -> None:
    assert [other for other in sorted(IMPORTS[name]) if belongs_to(other, {"serving", "bentoml"})] == []


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
    importers = [name for name in MODULES if not belongs_to(name, FRONT_DOORS) and door in IMPORTS[name]]
    assert importers == []


def test_no_imports_run_in_a_circle() -> None:
    left = {name: own_imports(name) for name in MODULES}
    while leaves := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert left == {}


# Both halves decode pictures, and must agree


def drawn(mode: str) -> Image.Image:
    """11x7 pixels of noise in `mode`; P with one transparent entry."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (7, 11), dtype=np.uint16))
    rgba = Image.fromarray(rng.integers(0, 256, (7, 11, 4), dtype=np.uint8))
    if mode == "P":
        palette = rgba.convert("RGB").quantize(16)
        palette.info["transparency"] = 3
        return palette
    return rgba.convert("RGB").convert("CMYK") if mode == "CMYK" else rgba.convert(mode)


FORMS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in FORMS.items() for mode in modes])
def test_training_and_serving_decode_a_file_to_the_same_bytes(tmp_path: Path, form: str, mode: str) -> None:
    for orientation in (1,) if form in ("GIF", "BMP") else range(1, 9):  # those two have no EXIF
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"picture.{form.lower()}"
        file.write_bytes(encode(drawn(mode), form, **({"exif": exif} if orientation > 1 else {})))
        upright, _ = header(file)
        assert upright == ((7, 11) if orientation >= 5 else (11, 7))
        for width, height in (upright, (32, 32), (5, 4)):
            for target, channels in (("L", 1), ("RGB", 3)):
                trained = decode(file, target, (width, height))
                served = decode_image(file.read_bytes(), (height, width, channels), "plain", "bilinear")
                np.testing.assert_array_equal(trained, served)
                assert trained.dtype == served.dtype == np.uint8


def test_both_halves_flatten_a_picture_by_the_same_code() -> None:
    served, trained = (
        (ROOT / half / "flatten.py").read_text().partition("import io\n")[2]
        for half in ("serving/images", "training/data")
    )
    served = served.replace("from serving.errors import InvalidImage\n\n", "").replace("InvalidImage", "ValueError")
    assert served == trained


@pytest.mark.parametrize("tags", [b"no tags", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0"])
def test_neither_half_minds_a_broken_orientation(tmp_path: Path, tags: bytes) -> None:
    file = tmp_path / "broken.jpg"
    colours((9, 6)).save(file, exif=b"Exif\0\0" + tags)
    trained = decode(file, "RGB", header(file)[0])
    np.testing.assert_array_equal(trained, decode_image(file.read_bytes(), (6, 9, 3)))
