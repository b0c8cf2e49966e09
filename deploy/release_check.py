"""`make release-check`: would a stranger's clone work? Ends with the first thing that does not.

In a clean clone of the committed state: `make test`; `make serve`, asked what a drawn seven is; the Bento; the image,
which needs root. Takes as long as building both environments anew does. Knows commands and one route.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 300  # with the serving environment's installation
PORT = os.environ.get("PORT", "3999")
SEVEN = """
import io, sys
from tests.fixtures.pictures import digit, encode
sys.stdout.buffer.write(encode(digit("7")))
"""


def say(text: str) -> None:
    print(f"release-check: {text}", flush=True)


def check(clone: Path) -> None:
    """Raises CalledProcessError, OSError or RuntimeError."""
    version = _output(clone, sys.executable, "-c", "import serving; print(serving.__version__)").decode().strip()
    commit = _output(clone, "git", "log", "-1", "--format=%h %s").decode().strip()
    say(f"version {version}, {commit}")
    _run(clone, "make", "test")
    _serve(clone)
    _run(clone, "make", "bento")
    _run(clone, "make", "container-test", CI="true")  # where a skip is a failure
    say("passed")


def _serve(clone: Path) -> None:
    seven = _output(clone, ".venv-dev/bin/python", "-c", SEVEN)
    say("make serve")
    process = subprocess.Popen(["make", "serve"], cwd=clone, env=os.environ | {"PORT": PORT}, start_new_session=True)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{PORT}/classify?top_k=1", seven)
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    body = answer.read()
                break
            except OSError as err:  # URLError is one
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"make serve does not answer: {err}") from err
                time.sleep(0.5)
        if b'"label":"7"' not in body:
            raise RuntimeError(f"a seven is answered with {body!r}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _run(clone: Path, *command: str, **environment: str) -> None:
    say(" ".join(command))
    subprocess.run(command, cwd=clone, env=os.environ | environment, check=True)


def _output(clone: Path, *command: str) -> bytes:
    return subprocess.run(command, cwd=clone, check=True, stdout=subprocess.PIPE).stdout


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="shortcut-release-") as folder:
        clone = Path(folder) / "shortcut"
        try:
            if _output(ROOT, "git", "status", "--porcelain"):
                say("what is not committed is not looked at")
            _run(ROOT, "git", "clone", "--quiet", str(ROOT), str(clone))
            check(clone)
        except (subprocess.SubprocessError, OSError, RuntimeError) as err:
            say(f"FAILED: {err}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
