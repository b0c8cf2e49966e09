"""Builds and runs the image for real, with podman: `bentoml build`, `bentoml containerize`, `podman run`.

A Debian root made by debootstrap stands in for python:3.11-slim, so that no registry of images is needed: its Python is
Debian's. Everything stays in a folder of its own, CONTAINER_WORK, which makes the next time short.
"""

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server import PYTHON, ROOT, Client, free_port, ready

WORK = Path(os.environ.get("CONTAINER_WORK") or Path.home() / ".cache" / "shortcut-containers")
BASE = "localhost/python:3.11-slim"
IMAGE = "localhost/shortcut:test"
START_SECONDS = 30
DRAIN_SECONDS = 2
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # the host's: its way to the package index may have its own
NEEDED = ("podman", "runc", "debootstrap")


def missing() -> str:
    """Why it cannot be done here, empty if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "building a root file system needs root"
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def run(*arguments: str | Path, configuration: str = "run", **environment: str) -> str:
    """A command's output; raises CalledProcessError, whose `stderr` says why."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=ROOT,
        env=_environment(configuration) | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with status {done.returncode}:\n{said}")
    return done.stdout.strip()


def podman(*arguments: str | Path) -> str:
    return run("podman", *arguments)


def logs(container: str) -> str:
    """What it wrote so far, to either stream."""
    command = ["podman", "logs", container]
    done = subprocess.run(command, env=_environment("run"), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def build_or_skip(bentofile: str, image: str) -> None:
    """`image` from the working tree; skips the test where that cannot be done, which in CI is a failure."""
    why = missing()
    if why:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run this: {why}")
        pytest.skip(why)
    _configure()
    if subprocess.run(["podman", "image", "exists", BASE], env=_environment("run"), check=False).returncode:
        _build_base()
    home = {"BENTOML_HOME": str(WORK / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    tag = run(PYTHON, "-m", "bentoml", "build", "-f", bentofile, "--output", "tag", **home)
    tag = tag.splitlines()[-1].removeprefix("__tag__:")
    try:
        run(
            *(PYTHON, "-m", "bentoml", "containerize", tag, "--backend", "podman", "-t", image),
            configuration="build",
            **home,
        )
    finally:
        run(PYTHON, "-m", "bentoml", "delete", "--yes", tag, **home)
    podman("image", "prune", "--force")  # what the name stood for the time before


@contextmanager
def running(*options: str, image: str = IMAGE, **environment: str) -> Iterator[tuple[str, Client, float]]:
    """A container, ready; its id, a client, and the seconds until it was ready."""
    client = Client(free_port())
    variables = {"PORT": str(client.port), "SHORTCUT_DRAIN_SECONDS": str(DRAIN_SECONDS)} | environment
    settings = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    began = time.monotonic()
    name = podman("run", "--detach", *settings, *options, image)
    try:
        wait_until(lambda: ready(client), START_SECONDS, lambda: logs(name))
        yield name, client, time.monotonic() - began
    finally:
        podman("rm", "--force", "--time", "0", name)


def wait_until(holds: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> float:
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not so after {seconds} s: {explain()}")
        time.sleep(0.1)
    return time.monotonic() - began


def inside(container: str, script: str) -> str:
    """What the shell says to it."""
    return podman("exec", container, "sh", "-c", script)


def superfluous(container: str) -> dict[str, str]:
    """What is in it and should not be, by kind."""
    python = "import importlib.util as u; print([m for m in ('tensorflow', 'keras', 'tf2onnx') if u.find_spec(m)])"
    source = (
        "cd /home/bentoml/bento/src && find . -type f ! -path './serving/*' ! -path './models/*' ! -name 'bentofile*'"
    )
    found = {
        "of training": inside(container, f'/app/.venv/bin/python -c "{python}"').replace("[]", ""),
        "tools": inside(container, "for tool in gcc cc g++ make git curl; do command -v $tool; done; true"),
        "of apt": inside(
            container, "find /var/lib/apt/lists /var/cache/apt -name '*_*' -o -name '*.deb' -o -name '*.bin'"
        ),
        "caches": podman(
            *("exec", "--user", "0", container, "find", "/", "-xdev", "-type", "f", "-path", "*/.cache/*"),
            *("!", "-name", "providers.json"),
        ),
        "source": inside(container, source),
    }
    return {kind: names for kind, names in found.items() if names}


def size(image: str = IMAGE) -> int:
    """Bytes, those of its base included."""
    (found,) = json.loads(podman("image", "inspect", image))
    return int(found["Size"])


def _environment(configuration: str) -> dict[str, str]:
    return os.environ | {
        "CONTAINERS_CONF": str(WORK / f"{configuration}.conf"),
        "CONTAINERS_STORAGE_CONF": str(WORK / "storage.conf"),
    }


def _configure() -> None:
    """Podman's settings for here: the host's network, and no limits beyond what this process may set itself."""
    WORK.mkdir(parents=True, exist_ok=True)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    processes = most if processes < 0 else min(processes, most)
    containers = [
        f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]',
        'netns = "host"',
    ]
    engine = '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n'
    (WORK / "run.conf").write_text("\n".join(["[containers]", *containers, engine]))
    (WORK / "uv.toml").write_text("system-certs = true\n")
    (WORK / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    mounts = {CERTIFICATES: CERTIFICATES, WORK / "uv.toml": "/etc/uv/uv.toml", WORK / "pip.conf": "/etc/pip.conf"}
    volumes = f"volumes = {json.dumps([f'{here}:{there}:ro' for here, there in mounts.items()])}"
    (WORK / "build.conf").write_text("\n".join(["[containers]", *containers, volumes, engine]))
    (WORK / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{WORK}/graph"\nrunroot = "{WORK}/run"\n'
    )


def _build_base() -> None:
    root = WORK / "root"
    shutil.rmtree(root, ignore_errors=True)
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, "bookworm", root, _debian())
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / leftover, ignore_errors=True)
        (root / leftover).mkdir()
    for marker in root.glob("usr/lib/python3.*/EXTERNALLY-MANAGED"):
        marker.unlink()  # the official image's Python takes packages, too
    archive = WORK / "root.tar"
    run("tar", "-C", root, "-cf", archive, ".")
    shutil.rmtree(root)
    run("podman", "import", "--quiet", "--change", 'CMD ["python3"]', archive, BASE)
    archive.unlink()


def _debian() -> str:
    """The mirror that this machine uses, if it is Debian itself."""
    if "\nID=debian\n" in Path("/etc/os-release").read_text():
        for file in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
            for line in file.read_text().splitlines() if file.exists() else ():
                for word in line.partition("#")[0].split():
                    if "://" in word:
                        return word
    return "http://deb.debian.org/debian"
