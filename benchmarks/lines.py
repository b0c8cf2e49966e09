"""How much there is to read: `python -m benchmarks.lines` counts the lines of code of each part beside their limits.

A line of code is neither blank nor only a comment nor part of a docstring.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

# What somebody reads who wants to know how a picture becomes an answer, and how pictures become a model: paths, and the
# lines of code they may have. A path counts where it is named with the longest beginning.
PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "core of serving": (
        (
            "serving/protocols/native.py",
            "serving/protocols/hints.py",
            "serving/repository/",
            "serving/engine/",
            "serving/images/",
            "serving/artifacts.py",
            "serving/processes.py",
            "serving/errors.py",
        ),
        2300,
    ),
    "finding a digit's figure": (
        (
            "serving/images/digits.py",
            "serving/images/figure.py",
            "serving/images/ground.py",
            "serving/images/parts.py",
        ),
        500,
    ),
    "trying backends": (("serving/engine/probing.py", "serving/engine/openvino_cpu.py"), 300),
    "training": (("training/",), 1900),
    "changing and drawing pictures": (
        ("training/recipes/augmentation.py", "training/recipes/distortion.py", "training/recipes/drawn.py"),
        250,
    ),
    "people's pictures": (("training/data/",), 750),
    "publishing others' models": (("training/export.py", "training/artifact/inspection.py"), 150),
    "families of networks": (("training/networks/", "training/efficientnet_lite0.py"), 800),
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


def counts() -> dict[str, int]:
    """Lines of code of every part."""
    found = dict.fromkeys(PARTS, 0)
    places = {place: name for name, (places, _) in PARTS.items() for place in places}
    for half in ("serving", "training"):
        for file in (ROOT / half).rglob("*.py"):
            path = file.relative_to(ROOT).as_posix()
            if named := [place for place in places if path.startswith(place)]:
                found[places[max(named, key=len)]] += lines_of_code(file)
    return found


def main() -> int:
    over = False
    for name, lines in counts().items():
        limit = PARTS[name][1]
        over |= lines > limit
        print(f"{name:<25} {lines:>6,} lines of code, at most {limit:,}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
