"""Chunks of pictures -> tables of answers, computed by actors of Ray Data on this machine or a cluster.

The only module that knows Ray. A dead actor is replaced, and its chunk computed again.
"""

import contextlib
import logging
import math
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports its use
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what will be Ray's default; it warns until then

import psutil  # type: ignore[import-untyped]
import pyarrow
import ray

from serving.bulk.reading import Classifier, Work
from serving.bulk.sources import Chunk, chunks_a_task
from serving.engine import cores

PACKAGE = Path(__file__).resolve().parents[1]
OBJECT_STORE_BYTES = 256 * 1024 * 1024  # chunks and answers only: no picture goes through Ray's store
RETRIES = 3  # of a chunk whose actor died: a picture that kills its decoder must not do so for ever
STARTS = 3  # tries
IN_FLIGHT = 2  # tasks of an actor: one that it computes, one that waits


class Actor(Classifier):
    """Takes what Ray hands on: the work out of its store, and chunks as pickled bytes."""

    def __init__(self, work: list[Any]):
        super().__init__(ray.get(work[0]))

    def __call__(self, batch: dict[str, Any]) -> Iterator[pyarrow.Table]:
        for chunk in batch["chunk"]:
            yield from self.tables(pickle.loads(chunk))  # noqa: S301 - `answers` has pickled it


def answers(
    work: Work, chunks: Sequence[Chunk], actors: int | None, gpus: float, address: str | None
) -> Iterator[pyarrow.Table]:
    """Tables of `reading.SCHEMA`, in the order in which they are ready. `actors` is one a core by default, each of
    which takes `gpus` GPUs. Raises Ray's errors, among them that of a chunk whose actor died again and again."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # or it tells of each run, and that it has no progress bar
    try:
        _start(actors, address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is answered is kept
        size = min(actors or int(ray.cluster_resources().get("CPU", 1)), len(chunks))
        rows = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
        tasks = math.ceil(len(rows) / chunks_a_task(chunks, work.image_seconds, size))
        source = ray.data.from_items(rows, override_num_blocks=tasks)
        with warnings.catch_warnings():
            # Ray 2.60 calls the way in which a number of retries is named deprecated, and has no other yet.
            warnings.simplefilter("ignore")
            answered = source.map_batches(
                Actor,
                fn_constructor_args=([ray.put(work)],),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT),
                num_cpus=1,
                num_gpus=gpus or None,
                max_restarts=-1,
                max_task_retries=RETRIES,
            )
        yield from answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    finally:
        ray.shutdown()


def _start(actors: int | None, address: str | None) -> None:
    if address:
        # The nodes get this package, and bring the environment of requirements/bulk.txt themselves.
        runtime = {"py_modules": [str(PACKAGE)]}
        ray.init(address, runtime_env=runtime, log_to_driver=False, logging_level="error")
        return
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                num_cpus=max(cores.available(), actors or 1),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
            return
        except Exception as err:  # Ray 2.60 raises no class of its own where its processes need over 30 s
            if "timed out during startup" not in str(err) or not left:
                raise
            ray.shutdown()
            _end_children()  # which Ray leaves then, and which take what the next start needs
            print("Ray did not start within 30 s, as on a busy machine: once more", file=sys.stderr, flush=True)


def _end_children() -> None:
    """Of this process, which has none but Ray's."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
