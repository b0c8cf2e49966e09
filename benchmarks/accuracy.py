"""Posts a whole test split through HTTP: the served accuracy must be the card's, the answers ONNX Runtime's.

`python -m benchmarks.accuracy --url … --data …`. Knows a running server, a data set and the artifacts in models/;
shares no code with the packages that trained or serve them, so that it can contradict both.
"""

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

CONNECTIONS = 32
POINTS = 0.1  # by which the accuracy may differ from the card's
COMPARED = 1000  # images whose answer is compared with ONNX Runtime's
# Largest error of a probability: CPU float32, and providers that may compute in bf16, TF32 or fp16. An answer may
# differ only where ONNX Runtime's own lead is within twice that, so that rounding decides.
FLOAT32_TOLERANCE, REDUCED_TOLERANCE = 1e-4, 0.05


class CheckError(Exception):
    """The check could not be made or failed; the message says why."""


@dataclass(frozen=True)
class TestSplit:
    """`n` images: `upload(i)` gives the bytes to post, `array(i)` the (H, W, C) uint8 the model should see of them."""

    labels: Sequence[str]
    upload: Callable[[int], bytes]
    array: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)


def read_split(data: Path, card: dict[str, Any]) -> TestSplit:
    """The test split of an .npz (x_test, y_test) or of a folder (test/<class>/*)."""
    if data.is_dir():
        return _read_folder(data, card)
    try:
        with np.load(data, allow_pickle=False) as archive:
            images, indices = archive["x_test"], archive["y_test"].reshape(-1)
    except (OSError, ValueError, KeyError) as err:
        raise CheckError(f"{data}: no .npz with x_test and y_test ({err})") from err
    names = card["labels"]
    fits = images.dtype == np.uint8 and images[:1].size == np.prod(card["input_shape"])
    if not fits or indices.max() >= len(names):
        raise CheckError(f"{data}: {images.shape} {images.dtype} in {indices.max() + 1} classes do not fit the model")
    images = images.reshape(len(images), *card["input_shape"])

    def upload(i: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(images[i, :, :, 0] if images.shape[3] == 1 else images[i]).save(buffer, "PNG")
        return buffer.getvalue()

    return TestSplit([names[i] for i in indices], upload, lambda i: images[i])


def _read_folder(folder: Path, card: dict[str, Any]) -> TestSplit:
    # By file name before class, so that the first 1,000 come from every class.
    files = sorted((p for p in folder.glob("test/*/*") if p.is_file()), key=lambda p: (p.name, p.parent.name))
    if not files:
        raise CheckError(f"{folder}: no files test/<class>/*")
    unknown = sorted({p.parent.name for p in files} - set(card["labels"]))
    if unknown:
        raise CheckError(f"{folder}: the model knows no class {', '.join(unknown)}; it has {', '.join(card['labels'])}")
    return TestSplit(
        [p.parent.name for p in files], lambda i: files[i].read_bytes(), lambda i: _decode_plain(files[i], card)
    )


def _decode_plain(file: Path, card: dict[str, Any]) -> np.ndarray:
    """The `plain` convention; under another one only pictures that need no change can be compared."""
    height, width, channels = card["input_shape"]
    mode = "L" if channels == 1 else "RGB"
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
    if card["input_convention"] != "plain" and (image.size != (width, height) or image.mode != mode):
        raise CheckError(f"{file}: not a {width}x{height} {mode} picture; convention {card['input_convention']}")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[card.get("resample", "bilinear").upper()])
    return np.asarray(image).reshape(height, width, channels)


def card_accuracy(card: dict[str, Any]) -> float | None:
    """Percent; None for a model that was trained elsewhere, whose card records no metrics."""
    accuracy = (card.get("metrics") or {}).get("accuracy")
    return None if accuracy is None else 100 * accuracy


async def post_all(session: aiohttp.ClientSession, path: str, split: TestSplit) -> list[str]:
    """The top label of every image, in order, over CONNECTIONS kept-alive connections. Raises on any status but 200."""
    answers = [""] * len(split)
    waiting = iter(range(len(split)))

    async def client() -> None:
        for i in waiting:
            async with session.post(path, data=split.upload(i)) as response:
                text = await response.text()
                if response.status != 200:
                    raise CheckError(f"image {i}: status {response.status}, {text[:300]}")
                answers[i] = json.loads(text)["predictions"][0]["label"]

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(client())
    return answers


def differing(
    onnx: Path, split: TestSplit, answers: Sequence[str], labels: Sequence[str], tolerance: float
) -> tuple[int, list[int]]:
    """Compares the first COMPARED answers with ONNX Runtime's on the CPU; (how many, those that differ unexcused)."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    count = min(COMPARED, len(split))
    images = np.stack([split.array(i) for i in range(count)])
    probabilities = np.concatenate(
        [session.run(["probabilities"], {"image": images[i : i + 100]})[0] for i in range(0, count, 100)]
    )
    wrong = []
    for i, row in enumerate(probabilities):
        answered = row[list(labels).index(answers[i])]
        if labels[int(row.argmax())] != answers[i] and row.max() - answered > 2 * tolerance:
            wrong.append(i)
    return count, wrong


async def check(url: str, data: Path, model: str | None, models: Path) -> bool:
    """Prints what was found; True if all of it is as it must be."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    headers = {"Content-Type": "application/octet-stream"}
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        name = model or (await _get(session, "/models"))["default"]
        described = await _get(session, f"/models/{quote(name, safe='')}")
        card, served = described["card"], described["versions"][-1]
        split = await asyncio.to_thread(read_split, data, card)
        session.headers.update(headers)
        started = time.perf_counter()
        path = f"/classify?model={quote(name)}&version={served['version']}&top_k=1"
        answers = await post_all(session, path, split)
        seconds = time.perf_counter() - started
    right = sum(answer == label for answer, label in zip(answers, split.labels, strict=True))
    accuracy, expected = 100 * right / len(split), card_accuracy(card)
    print(f"{name} version {served['version']} on {served['provider']}")
    print(f"{len(split):,} images posted in {seconds:.0f} s, all answered 200")
    equal = expected is None or abs(accuracy - expected) <= POINTS + 1e-9
    beside = "the card records none" if expected is None else f"the card's {expected:.2f} %"
    print(f"accuracy through HTTP {accuracy:.2f} %, {beside}: {'ok' if equal else 'DIFFERS'}")

    onnx = models / name / str(served["version"]) / "model.onnx"
    if not onnx.is_file():
        raise CheckError(f"{onnx}: no such file; --models names the folder that the server serves")
    tolerance = FLOAT32_TOLERANCE if served["provider"] == "CPUExecutionProvider" else REDUCED_TOLERANCE
    count, wrong = await asyncio.to_thread(differing, onnx, split, answers, card["labels"], tolerance)
    verdict = f"DIFFERS for images {', '.join(map(str, wrong[:10]))}" if wrong else "ok"
    print(f"top answers of the first {count:,} beside ONNX Runtime's on the same arrays: {verdict}")
    return equal and not wrong


async def _get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        if response.status != 200:
            raise CheckError(f"GET {path}: status {response.status}, {(await response.text())[:300]}")
        return await response.json()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--url", default="http://localhost:3000", help="the server (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="an .npz with Keras' keys, or a folder test/<class>/*")
    parser.add_argument("--model", help="default: the server's default model")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the artifacts (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        return 0 if asyncio.run(check(args.url, args.data, args.model, args.models)) else 1
    except* (CheckError, aiohttp.ClientError, TimeoutError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
    except* KeyboardInterrupt:
        pass
    return 1


if __name__ == "__main__":
    sys.exit(main())
