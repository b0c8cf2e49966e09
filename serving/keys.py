"""`python -m serving.keys`: makes an API key and prints its hash for SHORTCUT_API_KEYS."""

import sys

from serving.edge import keys


def main() -> int:
    key, hashed = keys.make()
    print(f"key, shown once; clients send it as `Authorization: Bearer <key>`:\n  {key}")
    print(f"for the service (several are separated by commas):\n  SHORTCUT_API_KEYS={hashed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
