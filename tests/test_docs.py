"""Every page is plain, and true in what it names: files, links, commands, options, routes, settings, counts."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from serving import errors
from serving.errors import ClassifyError
from serving.settings import Settings
from tests.edge import test_differential
from tests.fixtures import prose
from tests.fixtures.hostile import corpus
from tests.fixtures.server import ROOT, committed_artifacts
from training.networks.table import NETWORKS
from training.recipes.table import RECIPES

LONGEST = 30  # words of a sentence
PAST = re.compile(r"CHANGELOG\.md|docs/decisions/0.*")  # may name what is no more
FOREIGN = (
    "lib/httpClient.js",  # a file of autocannon's
    "/schema.json",  # a route of BentoML's own
    "/classifier",  # a path below which a proxy shows the service
)
# Files that pages name and that a command makes, or that lie on the reader's machine.
MADE = re.compile(
    r"^(?:runs|pets|more|pictures|data|results|~|\.venv[\w-]*|fuzz/found)/|^/(?:dev|opt|tmp|proc|home|etc|sys|usr)\b"
    r"|(?:^|/)(?:providers\.json|answers\.csv|report\.html|pets\.csv|mnist\.npz|sbom\.json|new\.jpg|seven\.png|soak\.png|"
    r"libcuda\.so\.1|key\.pem|certificate\.pem|model\.keras|model\.onnx|card\.json|golden\.npz|saved_model\.pb|"
    r"history\.json|a\.jpg|x\.npz|\w+-metrics-key|metrics-key)$|^shortcut-"
)
SUFFIX = re.compile(r"\.(?:py|md|json|npz|yaml|yml|toml|txt|png|jpg|js|css|html|lua|sh|java|onnx|pb|in)$")


@cache
def tracked() -> tuple[str, ...]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(line for line in listed.stdout.splitlines() if (ROOT / line).exists())


def pages() -> list[str]:
    try:
        return [path for path in tracked() if path.endswith(".md")]
    except pytest.skip.Exception:
        return []


every_page = pytest.mark.parametrize("page", [page for page in pages() if not PAST.match(page)])


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


# Files


def names_a_file(span: str) -> bool:
    if not re.fullmatch(r"[\w.<>*{},/~-]+", span) or MADE.search(span) or "//" in span or span in FOREIGN:
        return False
    top = span.split("/")[0]
    return bool(SUFFIX.search(span)) or ("/" in span and top in {path.split("/")[0] for path in tracked()})


def exists(span: str, page: str) -> bool:
    """From the root, from the page's folder, or the end of a path; a placeholder or a glob stands for anything."""
    pattern = re.sub(r"<[^>]*>", "*", span).rstrip("/")
    pattern = re.sub(r"\{([^}]*)\}", "*", pattern)
    glob = "".join("[^/]*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", pattern))
    found = re.compile(rf"(?:^|/){glob}(?:/|$)" if "/" not in pattern else rf"^(?:.*/)?{glob}(?:/|$)")
    return any(found.search(path) for path in tracked())


@every_page
def test_files_that_are_named_exist(page: str) -> None:
    named = [span for span in prose.spans(text_of(page)) if names_a_file(span)]
    assert [span for span in named if not exists(span, page)] == []


@every_page
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in prose.links(text_of(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        if not target.exists() or (anchor and anchor not in prose.anchors(target)):
            broken.append(link)
    assert broken == []


# Commands


def modules(line: str) -> Iterator[tuple[Path, str]]:
    """Each of our modules that the line runs, as a file, and what stands behind it."""
    for name, rest in re.findall(r"python -m ([\w.]+)(.*)", line):
        if (ROOT / name.split(".")[0]).is_dir():
            path = ROOT / name.replace(".", "/")
            yield (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")), rest


@every_page
def test_commands_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    lines = prose.commands(text_of(page))
    named = {name for line in lines for name in re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", line)}
    assert sorted(named - targets) == []
    assert [str(path) for line in lines for path, _ in modules(line) if not path.exists()] == []


@every_page
def test_options_that_are_named_exist(page: str) -> None:
    wrong = []
    for line in prose.commands(text_of(page)):
        for path, rest in modules(line):
            source = path.read_text() if path.exists() else ""
            given = re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest.partition(" #")[0].partition("|")[0])
            wrong += [f"{path.name} {option}" for option in given if f'"{option}"' not in source and option != "--help"]
    assert wrong == []


# Routes, settings, codes


@cache
def routes() -> set[str]:
    """Every text in the protocols that begins as a path, with any name in braces."""
    found = set()
    for file in (ROOT / "serving" / "protocols").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"/[\w{]*", node.value):
                found.add(re.sub(r"\{\w+\}", "{}", node.value.partition("?")[0]))
    return found


ROUTE = re.compile(r"(?:(?:GET|POST|PUT|HEAD|DELETE) )?(/[a-z0-9_./{}<>*…:-]*)(?:\?[^ ]*)?")


@every_page
def test_routes_that_are_named_exist(page: str) -> None:
    wrong = []
    for span in prose.spans(text_of(page)):
        match = ROUTE.fullmatch(span)
        if match and not MADE.search(match[1]) and not match[1].endswith(("/*", "…")) and len(match[1]) > 1:
            path = re.sub(r"[{<]\w+[}>]", "{}", match[1])
            wrong += [span] if path not in {*routes(), *FOREIGN} else []
    assert wrong == []


@every_page
def test_settings_that_are_named_exist(page: str) -> None:
    known = {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)} | {"SHORTCUT_TEST_DATA"}
    assert set(re.findall(r"SHORTCUT_[A-Z_]*[A-Z]", text_of(page))) - known == set()


def test_table_of_settings_is_the_dataclass() -> None:
    rows = dict(re.findall(r"^\| `(SHORTCUT_\w+)` \| (.*?) \| .+ \|$", text_of("docs/settings.md"), re.M))
    assert set(rows) == {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)}
    for spec in fields(Settings):
        assert rows[f"SHORTCUT_{spec.name.upper()}"].strip("` ") == (
            "" if spec.default in ((), None) else str(spec.default)
        )


def test_every_code_of_a_failure_is_documented() -> None:
    ours = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ClassifyError)]
    for failure in ours:
        assert f"`{failure.code}`" in text_of("docs/settings.md")


def rows(page: str, header: str) -> set[str]:
    """The code spans in the first column of the table that begins with `header`."""
    (table,) = re.findall(rf"^\| {header} \|.*\n((?:\|.*\n)+)", text_of(page), re.M)
    return {name for line in table.splitlines() for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_every_network_and_recipe_is_described() -> None:
    networks = {name for name in NETWORKS if not name.startswith("_")}
    assert rows("docs/training.md", "network") == networks | {"keras:<Name>"}
    assert rows("docs/training.md", "recipe") == set(RECIPES)


def number(page: str, pattern: str) -> int:
    """The one number that the page says at this place."""
    (found,) = re.findall(pattern, re.sub(r"\s+", " ", text_of(page)))
    return int(found.replace(",", ""))


def test_counts_are_right() -> None:
    assert 0 <= len(corpus()) - number("SECURITY.md", r"over ([\d,]+) cases\)") < 100
    assert number("SECURITY.md", r"h11 on ([\d,]+) cases") == test_differential.CASES
    assert number("docs/decisions/0001-own-http-connection.md", r"corpus of ([\d,]+) inputs") == test_differential.CASES
    golden = np.load(committed_artifacts()[0] / "golden.npz", allow_pickle=False)
    assert number("models/README.md", r"golden pictures: (\d+) drawn") == len(golden["image"])
    assert number("docs/operations.md", r"costs as much as (\d+) images") == Settings().explain_grid ** 2 + 1
    limit = re.search(r"const LONGEST = (\d+);", text_of("serving/page/picture.js"))
    assert limit
    assert number("docs/page.md", r"more than ([\d,]+) pixels") == int(limit[1])
    lines = len(text_of("examples/ask_httpx.py").splitlines())
    assert "ask_httpx.py) has thirty lines" in text_of("docs/client.md").replace("\n", " ")
    assert 28 <= lines <= 33


# Plain language


PLAIN = [page for page in pages() if re.match(r"README|CONTRIBUTING|docs/", page)]


@pytest.mark.parametrize("page", PLAIN)
def test_no_sentence_is_long(page: str) -> None:
    long = [f"{n} words: {text}" for text in prose.sentences(text_of(page)) if (n := prose.words(text)) > LONGEST]
    assert long == [], "\n".join(long)
