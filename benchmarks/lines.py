"""How much there is to read: `python -m benchmarks.lines` prints one table of all rooms and their lines of code.

A line of code is neither blank nor only a comment nor part of a docstring. A report for people: it limits nothing.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HALVES = ("serving", "training", "study", "benchmarks", "deploy", "fuzz", "tests")
_NO_CODE = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Count(NamedTuple):
    """Of one file."""

    code: int
    comments: int  # lines that are or end with one
    docstrings: int


def count(source: str) -> Count:
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return Count(len(code - docstrings), len(comments), len(docstrings))


def rooms() -> dict[str, list[Path]]:
    """The files of each room; those that are in none are their half's own."""
    files: dict[str, list[Path]] = {}
    for half in HALVES:
        for file in sorted((ROOT / half).rglob("*.py")):
            folders = file.relative_to(ROOT).parts[:-1]
            files.setdefault("/".join(folders[:2]), []).append(file)
    return dict(sorted(files.items()))


def main() -> int:
    print(f"{'':<26}{'files':>7}{'code':>9}{'comments':>10}{'docstrings':>12}  longest file")
    totals: Counter[str] = Counter()
    for room, files in rooms().items():
        counts = [count(file.read_text()) for file in files]
        code, comments, docstrings = (sum(column) for column in zip(*counts, strict=True))
        longest = max(zip(counts, files, strict=True), key=lambda pair: pair[0].code)
        print(
            f"{room:<26}{len(files):>7,}{code:>9,}{comments:>10,}{docstrings:>12,}  "
            f"{longest[1].name} {longest[0].code:,}"
        )
        totals.update(files=len(files), code=code, comments=comments, docstrings=docstrings)
    print(f"{'all':<26}{totals['files']:>7,}{totals['code']:>9,}{totals['comments']:>10,}{totals['docstrings']:>12,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
