"""`make bento`: builds a Bento from a bentofile with the pinned uv, and prints what was packed.

BentoML looks for uv when it builds a Bento and again when it builds an image, and installs the newest where there is
none. Here both get the version of requirements/bento.txt. The list comes from the Bento itself, and names what git does
not know. Which models are good is not looked at: whatever lies in models/ is packed.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".venv-bento" / "bin"
PIN = ROOT / "requirements" / "bento.txt"


def install_uv() -> str:
    """The shell command that installs the pinned uv in an image, where BentoML's template then finds it."""
    requirement = " ".join(PIN.read_text().replace("\\\n", " ").split())
    return (
        f"printf '%s\\n' '{requirement}' > /tmp/uv.txt && pip install --require-hashes -r /tmp/uv.txt && rm /tmp/uv.txt"
    )


# Libraries of OpenVINO for devices and graph formats that the service does not use: 75 of 183 MB (2026.4.1).
UNUSED = (
    *("*_gpu_plugin*", "*_npu_plugin*", "cache.json", "*_paddle_*", "*_pytorch_*", "*_tensorflow_*"),
    *("*_jax_*", "*_gguf_*"),
)
# Headers for programs in C++, tests of NumPy, and what ONNX Runtime has for changing models: 20 MB.
UNUSED_PATHS = (
    *("*/openvino/include/*", "*/numpy/*/tests/test_*", "*/numpy/*/tests/data/*"),
    *(f"*/onnxruntime/{folder}/*" for folder in ("transformers", "quantization", "tools", "datasets")),
)


def leave_out_libraries(programs: str = "/usr/local/bin", installed: str = "/app") -> str:
    """The shell command that puts a script in uv's place, which runs uv and then removes what is not used: in the same
    layer of the image, or it would not become smaller."""
    names = " -o ".join(f'-name "{name}"' for name in UNUSED)
    paths = " -o ".join(f'-path "{path}"' for path in UNUSED_PATHS)
    libraries = f'-path "*/openvino/libs/*" \\( {names} \\)'
    script = f'uv-itself "$@" && find {installed} -type f \\( {libraries} -o {paths} \\) -delete'
    return (
        f"mv $(command -v uv) {programs}/uv-itself && printf '%s\\n' '#!/bin/sh' '{script}' > {programs}/uv && "
        f"chmod +x {programs}/uv"
    )


def build(bentofile: Path) -> tuple[str, Path]:
    """The new Bento's tag and folder. Raises FileNotFoundError where the pinned uv is missing, and BentoML's errors."""
    if not (UV / "uv").exists():
        raise FileNotFoundError(f"{UV / 'uv'} is missing: `make bento` installs it")
    os.environ["PATH"] = f"{UV}{os.pathsep}{os.environ['PATH']}"
    import bentoml

    from serving.service import ImageClassifier

    ImageClassifier.image.run(install_uv()).run(leave_out_libraries())
    bento = bentoml.bentos.build_bentofile(str(bentofile), build_ctx=str(ROOT))
    return str(bento.tag), Path(bento.path)


def changed_files(source: Path, checkout: Path = ROOT) -> dict[str, str] | None:
    """The files under `source` that are not as committed in `checkout`, and why; None where git cannot say."""
    tracked = _git(checkout, "ls-files", "-z")
    modified = _git(checkout, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    if tracked is None or modified is None:
        return None
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    differing = modified | (files - tracked)
    return {file: "changed" if file in tracked else "not in git" for file in sorted(files & differing)}


def _git(checkout: Path, *arguments: str) -> set[str] | None:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return set(done.stdout.split("\0")) - {""}


def packed(source: Path, changed: dict[str, str] | None) -> Iterator[str]:
    """A line for each model version with its size, then one for each other file that is not as committed."""
    changes = changed or {}
    models = sorted(card.parent for card in source.glob("models/*/*/card.json"))
    width = max((len(model.parent.name) for model in models), default=0)
    for model in models:
        size = sum(file.stat().st_size for file in model.iterdir())
        folder = model.relative_to(source).as_posix() + "/"
        notes = sorted({reason for file, reason in changes.items() if file.startswith(folder)}, reverse=True)
        line = f"model  {model.parent.name:{width}}  version {model.name:>3}  {size / 1e6:5.1f} MB"
        yield "  ".join([line, *notes])
    folders = tuple(model.relative_to(source).as_posix() + "/" for model in models)
    for file, reason in changes.items():
        if not file.startswith(folders) and not file.startswith("bentofile"):
            yield f"file   {file}  {reason}"
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    yield f"{len(models)} model versions, {size / 1e6:.1f} MB with the service's source"
    if changed is None:
        yield "git does not say which of these are committed: this is no checkout"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.bento", description=__doc__)
    parser.add_argument("bentofile", type=Path, help="bentofile.yaml or bentofile.gpu.yaml")
    args = parser.parse_args(argv)
    try:
        tag, folder = build(args.bentofile)
    except FileNotFoundError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    source = folder / "src"
    print(*packed(source, changed_files(source)), sep="\n")
    print(tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
