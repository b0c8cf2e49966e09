"""python -m fuzz --seconds N: every target in turn for its share of the time, in requirements/fuzz.txt's environment.

What crashes a target is kept under fuzz/found/<target>/ (not committed) and reported at the end.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
COVERAGE_GUIDED = ("decode_image", "multipart", "http1", "connection")
MAX_LENGTH = 4096  # bytes of an input: longer ones are slow to run and find little more
SLOWEST = 10  # seconds that one input may take before it counts as a finding
MEMORY = 1024  # MiB, the same
WHAT_NOW = """{found} crashed {target}. Run it alone with
  {python} -m fuzz.{target} {found}
mend the cause, and keep the input: add its bytes as a Picture to tests/fixtures/hostile_images.py (or, for a form, to
_forms in tests/fixtures/hostile_requests.py; for HTTP, to tests/edge/test_http1.py) with the answer it must get."""


def fuzz(target: str, seconds: int) -> list[Path]:
    """Runs a coverage-guided target from the corpus it has kept; returns the inputs that crashed it."""
    kept, crashes = FOUND / target / "corpus", FOUND / target / "crashes"
    kept.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", f"-max_len={MAX_LENGTH}"]
    options = [*limits, f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-verbosity=0", "-close_fd_mask=0"]
    done = subprocess.run([sys.executable, "-m", f"fuzz.{target}", *options, str(kept)], cwd=HERE.parent, check=False)
    found = sorted(set(crashes.iterdir()) - before)
    for path in found:
        print(WHAT_NOW.format(found=os.path.relpath(path), target=target, python=os.path.relpath(sys.executable)))
    if done.returncode and not found:
        raise SystemExit(f"{target} ended with status {done.returncode} and left no input")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--only", choices=(*COVERAGE_GUIDED, "api"), help="one target instead of all")
    arguments = parser.parse_args()
    targets = [arguments.only] if arguments.only else [*COVERAGE_GUIDED, "api"]
    share = max(1, arguments.seconds // len(targets))
    failed = 0
    for target in targets:
        print(f"fuzz: {target} for {share} seconds", flush=True)
        if target == "api":
            failed += subprocess.run(
                [sys.executable, "-m", "fuzz.api", str(share)], cwd=HERE.parent, check=False
            ).returncode
        else:
            failed += len(fuzz(target, share))
    print(f"fuzz: {'nothing found' if not failed else 'see above for what was found'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
