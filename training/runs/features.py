"""Pictures -> their features under a pretrained or trained network, each computed once and then kept.

`runs/features/<network>/` holds the network (`artifact/body.py`) and a row of features for each picture, found by the
picture's pixels: the name or the folder of its file does not count. What was computed before an interruption is there
afterwards. The folder is bounded: what was used longest ago goes first. `python -m training.features` empties it.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from training.artifact.body import Body, key_of
from training.data.dataset import let_go
from training.networks.network import build, macs_of
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.runs.kept import DIGEST, FOLDER, LOCK, bound, places_of


def pretrained_body(recipe: Recipe, shape: tuple[int, int, int], runs: Path, golden: bool = False) -> Body:
    """The recipe's network with the weights that it begins with, for pictures (H, W, C). Raises ValueError.

    `golden` asks for what an artifact is proved with, too.
    """
    network = NETWORKS[recipe.network]
    put = network.pretrained
    if not recipe.weights or put is None:
        raise ValueError(f"{recipe.network} has no pretrained weights")
    weights = Path(recipe.weights)
    stated = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else recipe.weights

    def model() -> keras.Model:
        built = build(network, shape, 2, recipe.network)
        put(built, recipe.weights)
        return built

    return _kept(runs / FOLDER, key_of(recipe.network, stated, str(shape)), model, golden)


def trained_body(folder: Path, runs: Path) -> Body:
    """The network of a finished run's folder, with golden features. Raises ExportError where it ends in no Dense."""
    file = folder / "model.keras"
    with file.open("rb") as opened:
        key = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    return _kept(runs / FOLDER, key, lambda: keras.saving.load_model(file, compile=False), True)


def _kept(folder: Path, key: str, model: Callable[[], keras.Model], golden: bool) -> Body:
    body = Body.open(folder / key)
    if body is None or (golden and not body.has_golden):
        built = model()
        body = body or Body.make(built, folder / key, key, macs_of(built))
        if golden:
            body.add_golden(built)
    return body


def features_of(
    body: Body, images: np.ndarray, report: Callable[[int, int], None] = lambda known, new: None
) -> np.ndarray:
    """The features (N, D) float32 of images (N, H, W, C) uint8: read where they are known, else computed and kept.

    `report` is given the numbers of those that were known and of those that are computed now, before that begins.
    """
    with (body.folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another training waits, and then finds what this one computed
        digests = [_digest(image) for image in images]
        places = places_of(body.folder, body.size)
        new = list(dict.fromkeys(digest for digest in digests if digest not in places))
        report(len(images) - sum(digest not in places for digest in digests), len(new))
        first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
        _compute(body, images, [first[digest] for digest in new], new)
        places = places_of(body.folder, body.size)
        rows = np.memmap(body.folder / "rows", np.float32, "r", shape=(len(places), body.size))
        features = np.array(rows[[places[digest] for digest in digests]])
        del rows
        os.utime(body.folder)
    bound(body.folder.parent, body.folder)
    return features


def _digest(image: np.ndarray) -> bytes:
    digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()[:DIGEST]
    let_go(image)
    return digest


def _compute(body: Body, images: np.ndarray, indices: list[int], digests: list[bytes]) -> None:
    if not indices:
        return
    done = 0
    with (body.folder / "rows").open("ab") as rows, (body.folder / "digests").open("ab") as names:
        for part in body.features(images, indices):
            rows.write(np.ascontiguousarray(part, np.float32).data)
            rows.flush()
            names.write(b"".join(digests[done : done + len(part)]))
            names.flush()
            done += len(part)
