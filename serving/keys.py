"""`python -m serving.keys`: makes an API key and prints its hash for SHORTCUT_API_KEYS."""

import argparse
import sys
from collections.abc import Sequence

from serving.edge import keys


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.keys",
        description="Make an API key. It is printed once, with its hash: the service is given the hash alone.",
    )
    parser.parse_args(argv)
    key, hashed = keys.make()
    print(f"key, shown once; clients send it as `Authorization: Bearer <key>`:\n  {key}")
    print(f"for the service (several are separated by commas):\n  SHORTCUT_API_KEYS={hashed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
