"""`python -m training.evaluate MODEL --data …`: measure a published artifact again, without a server.

ONNX Runtime runs it on the CPU; the command says whether the artifact still agrees with its card.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.artifact.metrics import measure
from training.artifact.reading import latest_version, run_onnx
from training.data.dataset import DatasetError
from training.data.loading import load

TOLERANCE = 0.001  # of accuracy: 0.1 points


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure an artifact again.")
    parser.add_argument("model", type=Path, help="models/NAME (its latest version) or models/NAME/VERSION")
    parser.add_argument("--dataset", help="mnist, cifar10 or digits (default: the one in the card)")
    parser.add_argument("--data", type=Path, help="an .npz with Keras' keys, a CSV file,label, or a folder of images")
    parser.add_argument("--seed", type=int, help="splits a folder without a test split (default: the recipe's)")
    args = parser.parse_args(argv)
    try:
        path = latest_version(args.model)
        card = json.loads((path / "card.json").read_text())
        if not (path / "model.onnx").is_file():
            raise FileNotFoundError(f"{path}: has no model.onnx")
        height, width, _ = card["input_shape"]
        seed = args.seed if args.seed is not None else (card.get("recipe") or {}).get("seed", 0)
        size = height if height == width else None
        own, labels = card["dataset"]["name"], tuple(card["labels"])
        name = args.dataset or (None if args.data else own)
        data = load(name, args.data, seed=seed, labels=labels, image_size=size)
        if list(data.input_shape) != card["input_shape"]:
            raise DatasetError(f"the model takes images of shape {card['input_shape']}, got {list(data.input_shape)}")
    except (DatasetError, OSError, KeyError, json.JSONDecodeError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    images, targets, which = data.x_test, data.y_test, "test images"
    if data.set_aside and data.name != own:  # other pictures than the training's: none of them was trained on
        images, targets = np.concatenate([data.x_train, images]), np.concatenate([data.y_train, targets])
        which = "images, all there are,"
    metrics = measure(run_onnx(path, images), targets, card["labels"])
    measured_on = f"on {len(images):,} {which} of {data.origin}"
    print(json.dumps(metrics, indent=2))
    recorded = (card.get("metrics") or {}).get("accuracy")
    if recorded is None:
        print(f"measured {measured_on}; the card records no accuracy to compare with")
        return 0
    said = f"accuracy {metrics['accuracy']:.4f} {measured_on}, the card says {recorded:.4f}"
    if data.name != own:  # the card speaks of other pictures: nothing to agree with
        print(f"{said} on {own}")
        return 0
    agrees = abs(metrics["accuracy"] - recorded) <= TOLERANCE
    print(f"{said}: {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
