"""An artifact -> the `config.pbtxt` that makes `models/` a model repository of NVIDIA's Triton Inference Server.

Written in protobuf's text format by hand, for it takes ten lines. Knows the card and the names of the outputs.
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import json
from collections.abc import Sequence
from pathlib import Path

import onnx

FILE = "config.pbtxt"
BATCH = 64  # pictures that Triton may put into one batch: as many as the service takes in one request


def write_config(version: Path) -> Path:
    """Write models/NAME/config.pbtxt from what a version's folder holds, its card and its graph, and return it.

    It stands beside the versions, of which Triton serves the latest, and is replaced by a whole file at once.
    """
    card = json.loads((version / "card.json").read_text())
    graph = onnx.load(str(version / "model.onnx"), load_external_data=False).graph
    unfamiliarity = any(output.name == "unfamiliarity" for output in graph.output)
    file = version.parent / FILE
    partial = file.with_name(f".{FILE}.partial")
    try:
        partial.write_text(config(card["name"], card["input_shape"], len(card["labels"]), unfamiliarity))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


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
