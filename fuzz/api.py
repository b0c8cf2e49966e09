"""python -m fuzz.api SECONDS: schemathesis on the OpenAPI document of a service started here on 127.0.0.1.

Every generated request, valid or not, must get an answer that the document describes, and none may be a 500.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fixtures.server import running

FOUND = Path(__file__).resolve().parent / "found" / "api"
# Random bytes fit the document's `binary` and are rightly no picture; a number in a form is bytes like any other.
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"


def main() -> int:
    seconds = max(20, int(sys.argv[1]) if len(sys.argv) > 1 else 60)
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "service.log"
        with running(log, workers="1") as client:
            command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
            command += [f"http://127.0.0.1:{client.port}/docs.json", "--url", f"http://127.0.0.1:{client.port}"]
            command += ["--checks", "all", "--exclude-checks", LEFT_OUT, "--max-time", str(seconds), "--no-color"]
            command += ["--continue-on-failure", "--generation-database", "none"]
            status = subprocess.run(command, cwd=FOUND, check=False).returncode
        if "Traceback" in log.read_text(errors="replace"):
            print(log.read_text(errors="replace")[-5000:])
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
