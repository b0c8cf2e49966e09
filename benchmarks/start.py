"""`python -m benchmarks.start --cores 0.2`: how long a worker takes until it is ready where the kernel gives it little.

A pod's limit is a quota of its cgroup. So the service starts in a cgroup of its own, with one model and with all, and
nobody asks it anything but /readyz. Needs root and a kernel's cgroups of either version. Knows no load.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cgroups import inside
from benchmarks.many_models import Service
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import ServerError
from serving.engine import cores

PERIOD = 100_000  # microseconds in which the quota is given out, as Kubernetes has it
EVERY = 2.0  # seconds between two questions, as the startup probe's


@contextlib.contextmanager
def limited(share: float) -> Iterator[Sequence[str]]:
    """A command that runs the rest of its command line with `share` of a core, all its processes together. Raises
    OSError where no cgroup can be made."""
    folder = _made(f"shortcut-start-{os.getpid()}")
    with inside(folder) as command:
        quota = max(1000, int(share * PERIOD))  # the kernel's least
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        yield command


def _made(name: str) -> Path:
    """A new cgroup that can limit processors, below one that this process is in."""
    reason = "the kernel shows none"
    for parent in cores.cgroups("cpu"):
        folder = parent / name
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            folder.mkdir()
        except OSError as err:
            reason = str(err)
            continue
        if (folder / "cpu.max").exists() or (folder / "cpu.cfs_quota_us").exists():
            return folder
        folder.rmdir()
    raise OSError(f"no cgroup that limits processors can be made: {reason}")


def measure(models: Path, default: str, share: float, port: int, provider: str) -> float:
    """Seconds from the command to the first 200 of /readyz. Raises ServerError, OSError."""
    with tempfile.TemporaryDirectory(prefix="shortcut-start-") as folder, limited(share) as within:
        cache = str(Path(folder) / "cache")  # empty: a new pod knows no measurements
        service = Service(models, default, 0, port, within, EVERY, SHORTCUT_CACHE=cache, SHORTCUT_PROVIDER=provider)
        service.stop()
        return service.ready_seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", default="digits_cnn-mnist", help="the one model (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder (default: %(default)s)")
    parser.add_argument("--cores", type=float, default=0.2, help="that the service may use (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--provider", default="auto", help="SHORTCUT_PROVIDER (default: %(default)s)")
    parser.add_argument("--port", type=int, default=3918, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.cores <= 0 or args.rounds < 1:
        parser.error("--cores must be above 0, and --rounds at least 1")
    if not (args.models / args.model).is_dir():
        parser.error(f"{args.models / args.model}: no such model")
    busy = busy_cores()
    try:
        with tempfile.TemporaryDirectory(prefix="shortcut-start-") as folder:
            one = Path(folder) / "models"
            shutil.copytree(args.models / args.model, one / args.model)
            number = len({path.parent.parent for path in args.models.glob("*/*/model.onnx")})
            for title, models in (("1 model", one), (f"{number} models", args.models.resolve())):
                seconds = [
                    measure(models, args.model, args.cores, args.port, args.provider) for _ in range(args.rounds)
                ]
                print(f"{title}: ready after {', '.join(f'{each:.1f}' for each in seconds)} s", flush=True)
    except (ServerError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    load = f"something else took {busy:.1f} cores" if busy > BUSY else "quiet"
    machine = conditions()
    print(f"one worker on {args.cores:g} of a core; {machine['cpu_kind']}, {machine['cores']} cores, {load}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
