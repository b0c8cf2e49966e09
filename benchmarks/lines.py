"""How much there is to read: `python -m benchmarks.lines` counts the lines of code of each part beside their limits.

A line of code is neither blank nor only a comment nor part of a docstring.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

# What somebody reads who wants to know how a picture becomes an answer, and how pictures become a model.
PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "core of serving": (
        (
            "serving/protocols/native.py",
            "serving/protocols/hints.py",
            "serving/repository",
            "serving/engine",
            "serving/images",
            "serving/artifacts.py",
            "serving/errors.py",
        ),
        # 2,105 when it got its rooms (at most 2,300 then); backends tried in child processes and the search for a
        # figure came after that.
        2800,
    ),
    # 1,402 when it got its rooms (at most 1,900 then); people's folders, families, tuned and transfer came after that.
    "training": (("training",), 3000),
}


def lines_of_code(path: Path) -> int:
    source = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def count(places: Sequence[str]) -> int:
    """Lines of code of all Python files in `places`, relative to the repository."""
    files = [
        file for place in places for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
    ]
    return sum(map(lines_of_code, files))


def main() -> int:
    over = False
    for name, (places, limit) in PARTS.items():
        lines = count(places)
        over |= lines > limit
        print(f"{name:<16} {lines:>6,} lines of code, at most {limit:,}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
