"""Classifies pictures with httpx alone: python ask_httpx.py URL FILE…"""

import sys
import time
from pathlib import Path
from typing import Any

import httpx


def classify(client: httpx.Client, picture: bytes, **options: Any) -> Any:
    """The service's answer. Raises RuntimeError with the service's code and message."""
    for _ in range(5):
        response = client.post("/classify", content=picture, params=options)
        if response.status_code != 503:  # the service is not too busy
            break
        time.sleep(float(response.headers.get("retry-after", 1)))
    answer = response.json()
    if response.is_error:
        raise RuntimeError(f"{answer['code']}: {answer['error']}")
    return answer


def main() -> None:
    url, *files = sys.argv[1:]
    with httpx.Client(base_url=url) as client:
        for file in files:
            best = classify(client, Path(file).read_bytes(), top_k=1)["predictions"][0]
            print(f"{file}: {best['label']} {best['probability']:.4f}")


if __name__ == "__main__":
    main()
