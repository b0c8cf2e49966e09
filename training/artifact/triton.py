"""An artifact -> the `config.pbtxt` that makes `models/` a model repository of NVIDIA's Triton Inference Server.

Written in protobuf's text format by hand, for it takes ten lines. Knows only names, types and shapes.
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import json
from collections.abc import Sequence
from pathlib import Path

FILE = "config.pbtxt"
BATCH = 64  # pictures that Triton may put into one batch: as many as the service takes in one request


def write_config(model: Path, name: str, shape: Sequence[int], classes: int, unfamiliarity: bool = False) -> None:
    """Write models/NAME/config.pbtxt for pictures of `shape` (H, W, C) and `classes` probabilities.

    It stands beside the versions, of which Triton serves the latest, and is replaced by a whole file at once.
    """
    file = model / FILE
    partial = model / f".{FILE}.partial"
    partial.write_text(config(name, shape, classes, unfamiliarity))
    partial.chmod(0o644)
    partial.replace(file)


def config(name: str, shape: Sequence[int], classes: int, unfamiliarity: bool = False) -> str:
    """The configuration in protobuf's text format. Dimensions are those of one picture: Triton adds the batch's."""
    outputs = [_tensor("probabilities", "TYPE_FP32", [classes])]
    if unfamiliarity:  # (N,): a batch of scalars
        outputs.append(_tensor("unfamiliarity", "TYPE_FP32", [1], scalar=True))
    return f"""# {name} for Triton's ONNX Runtime backend. Scaling is inside the graph: send uint8 pictures.
name: {json.dumps(name)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {BATCH}
input [
{_tensor("image", "TYPE_UINT8", shape)}
]
output [
{f",{chr(10)}".join(outputs)}
]
dynamic_batching {{ }}
"""


def _tensor(name: str, kind: str, dims: Sequence[int], scalar: bool = False) -> str:
    reshape = " reshape: { shape: [ ] }" if scalar else ""
    return f'  {{ name: "{name}" data_type: {kind} dims: [ {", ".join(map(str, dims))} ]{reshape} }}'
