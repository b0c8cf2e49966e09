"""`python -m serving.classify FILE…`: the service's answer without a server, by the same decoder and runtime."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.engine import cores
from serving.engine.measurements import Measurements
from serving.errors import ClassifyError, StartError, UnknownModel
from serving.repository.models import Repository
from serving.repository.served import ServedModel
from serving.settings import Settings


async def classify_files(served: ServedModel, files: Sequence[Path], top_k: int) -> list[dict[str, Any]]:
    """One result per file, in order, shaped as POST /classify/batch shapes them."""
    results = []
    for file in files:
        result: dict[str, Any] = {"filename": str(file)}
        try:
            result |= served.answer(await served.answer_of(file.read_bytes()), top_k)
        except ClassifyError as err:
            result.update(err.body())
        except OSError as err:
            result.update(error=f"cannot be read: {err.strerror}", code="unreadable_file")
        results.append(result)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.classify", description="Classify images without a server.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--model", help="default: SHORTCUT_DEFAULT_MODEL")
    parser.add_argument("--version", type=int, help="default: the latest")
    parser.add_argument("--top-k", type=int, default=3, help="classes to print for each image (default: 3)")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        parser.error(f"--top-k must be at least 1, got {args.top_k}")
    try:
        settings = Settings.from_environment()
        name = args.model or settings.default_model
        wanted = f"{name}:{args.version}" if args.version is not None else settings.versions
        settings = replace(settings, versions=wanted, default_model=name)
        _, threads = cores.layout(
            settings.workers, settings.provider
        )  # as the service's workers, so that the choice is theirs
        served = Repository(settings, threads, Measurements(settings.cache)).find(name, args.version)
        if served.model.measuring:
            served.take_faster()
    except (StartError, UnknownModel) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    results = asyncio.run(classify_files(served, args.files, args.top_k))
    print(
        json.dumps(
            {"model": served.artifact.name, "version": served.artifact.version, "results": results},
            indent=2,
            ensure_ascii=False,
        )
    )
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
