"""`python -m training.publish MODEL --to FORM`: a published model for another server, hub or registry."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.artifact.elsewhere import FORMS, publish_to
from training.artifact.errors import ExportError
from training.artifact.reading import latest_version
from training.artifact.triton import write_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.partition(": ")[2])
    parser.add_argument("model", type=Path, metavar="MODEL", help="models/NAME (its latest version) or its VERSION")
    text = "hf-folder: a folder for the Hugging Face Hub; mlflow: an MLflow model; onnx: one plain file; "
    text += "triton: the config.pbtxt that every export writes"
    parser.add_argument("--to", required=True, choices=(*FORMS, "triton"), help=text)
    parser.add_argument("--output", type=Path, help="a new folder or file (default: NAME-TO, or NAME.onnx)")
    args = parser.parse_args(argv)
    try:
        named = Path("models") / args.model  # its name alone will do
        model = named if named.exists() and not args.model.exists() else args.model
        artifact = latest_version(model).resolve()
        if args.to == "triton":
            print(f"wrote {write_config(artifact)}")
            return 0
        name = artifact.parent.name
        default = Path(f"{name}.onnx") if args.to == "onnx" else Path(f"{name}-{args.to}")
        print(f"wrote {publish_to(args.to, artifact, args.output or default)}")
    except (ExportError, OSError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
