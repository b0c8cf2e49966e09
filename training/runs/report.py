"""A run's record and test answers -> plots, and report.html: one file that opens without a connection.

It begins with what to do. Everything a user wrote is escaped, pictures are data URIs, and the page allows itself to
load nothing. Knows nothing of how the model was trained.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.artifact.trust import by_class
from training.artifact.unfamiliarity import OUTPUT
from training.data.dataset import Dataset
from training.data.pictures import RESIZES
from training.runs.advice import Earlier, changes, commands, confused, doubtful, verdict
from training.runs.plots import plot_confusion, plot_curves, plot_reliability

SHOWN = 24  # pictures of each kind
THUMBNAIL = 112  # pixels of the longer side
MANY = 40  # classes: of more, the worst are shown and the others folded
PLOTS = {"curves.png": "Curves", "confusion.png": "Confusion", "reliability.png": "Calibration"}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light }}
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem;
  color: #222; background: #fff; overflow-wrap: anywhere }}
.verdict {{ font-size: 1.3rem; font-weight: 600 }} .wide {{ overflow-x: auto }}
table {{ border-collapse: collapse }} td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal }} img {{ max-width: 100% }}
.warning {{ background: #fff3cd; padding: .4rem .8rem }}
pre {{ background: #f3f5f7; padding: .5rem; white-space: pre-wrap }}
figure {{ display: inline-block; margin: 0 .8rem .8rem 0; vertical-align: top }}
figcaption {{ font-size: 13px; width: 9rem }} figure img {{ width: 7rem }} small {{ color: #555 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_report(
    folder: Path,
    record: dict[str, Any],
    data: Dataset,
    probabilities: np.ndarray,
    models: Path = Path("models"),
    earlier: Earlier | None = None,
) -> None:
    """Write the plots and report.html. `record` is run.json's, `probabilities` (N, K) answer the test images. `models`
    is where the artifact is; `earlier` is what a version before it answers."""
    title = f"{record['model']} version {record['version']}"
    if record["history"]:
        plot_curves(record["history"], title, folder / "curves.png")
    counts, labels = _worst(np.array(record["confusion"]), data.labels)
    plot_confusion(counts, labels, title, folder / "confusion.png")
    hits = probabilities.argmax(axis=1) == data.y_test
    plot_reliability(probabilities.max(axis=1), hits, title, folder / "reliability.png")
    body = "\n".join(_body(folder, record, data, probabilities, models, earlier))
    page = _PAGE.format(title=escape(title), body=body)
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")


def _worst(confusion: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The part of the matrix with the MANY classes that are confused most, in their order, and their short names."""
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MANY])
    return confusion[np.ix_(kept, kept)], [_short(labels[k]) for k in kept]


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def _body(
    folder: Path,
    record: dict[str, Any],
    data: Dataset,
    probabilities: np.ndarray,
    models: Path,
    earlier: Earlier | None,
) -> Iterator[str]:
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    confusion = np.array(record["confusion"])
    wrong = np.flatnonzero(predicted != data.y_test)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]

    def pictures(chosen: np.ndarray) -> str:
        return "".join(_pictures(chosen, data, probabilities))

    yield f'<p class="verdict">{escape(verdict(record, data.y_test))}</p>'
    yield from (f'<p class="warning">{escape(text)}</p>' for text in record["warnings"])
    yield "<h2>Next</h2>"
    yield from (f"<p>{escape(what)}:</p><pre>{escape(command)}</pre>" for what, command in commands(record, models))
    if earlier:
        sentence, better, worse = changes(earlier, probabilities, data.y_test)
        yield f"<h2>Beside version {earlier.version}</h2><p>{sentence}</p>"
        for title, chosen in (("Got worse", worse), ("Got better", better)):
            if len(chosen):
                yield f"<h3>{title}</h3>" + pictures(chosen[:SHOWN])
    yield f"<h2>Wrong and surest of it</h2><p>{len(wrong):,} of {len(predicted):,} test pictures are answered wrong. "
    yield "Look whether their labels are right.</p>" + pictures(worst)
    if record.get("doubted"):
        yield "<h2>Labels in doubt</h2><p>These pictures look like another class. Are their labels right?</p>"
        yield "".join(_doubted(record["doubted"][:SHOWN], data))
    yield "<h2>In doubt</h2>"
    in_doubt = doubtful(probabilities, SHOWN)
    yield pictures(in_doubt) or "<p>None: the most probable class is always far before the others.</p>"
    if pairs := confused(confusion, data.labels):
        yield "<h2>What is confused</h2>" + _table(("is", "was taken for", "how often"), pairs)
    header, rows = by_class(data.y_test, predicted, data.labels, data.groups[len(data.x_train) :])
    order = np.argsort(confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1), kind="stable")
    shown = [rows[k] for k in (sorted(order) if len(rows) <= MANY else order[:MANY])]
    yield "<h2>By class</h2>" + _table(header, shown)
    if len(rows) > MANY:
        left = _table(header, [rows[k] for k in order[MANY:]])
        yield f"<details><summary>The {len(rows) - MANY:,} classes that are right more often</summary>{left}</details>"
    for name, title in PLOTS.items():
        if not (folder / name).exists():  # of epochs, where there were none
            continue
        yield f"<h2>{title}</h2>"
        if name == "confusion.png" and len(rows) > MANY:
            yield f"<p>Of the {MANY} classes that are confused most.</p>"
        yield f'<img alt="{title}" src="{_data_uri((folder / name).read_bytes(), "png")}">'
    yield "<h2>Figures</h2>" + _table((), _figures(record))
    if record["notes"]:
        yield "<h2>About the data</h2><p>" + "<br>".join(map(escape, record["notes"])) + "</p>"


def _figures(record: dict[str, Any]) -> list[tuple[str, ...]]:
    metrics, training, data = record["metrics"], record["training"], record["dataset"]
    low, high = record["intervals"]["accuracy"]
    rows = [
        ("test accuracy", f"{metrics['accuracy']:.4f} ({low:.3f} to {high:.3f} with 95 % certainty)"),
        ("loss", f"{metrics['loss']:.4f}"),
        ("calibration error", f"{metrics['calibration_error']:.4f}"),
    ]
    if part := record.get("folds"):
        low, high = part["interval"]
        text = f"{part['accuracy']:.4f} ({low:.3f} to {high:.3f}, {part['pictures']:,} pictures)"
        rows.append(("accuracy by folds, on fixed features", text))
    if part := record.get("calibration"):
        text = f"{part['temperature']:.3f} (calibration error {part['before']:.4f} before, {part['after']:.4f} after)"
        rows.append(("temperature", text))
    if part := record.get("threshold"):
        text = f"{part['probability']:.3f} is right in {part['precision']:.1%} and reached by {part['coverage']:.1%}"
        rows.append(("threshold on validation", text))
    return [
        *rows,
        *_findings(record),
        ("data", f"{data['origin']}: {data['train']:,} images to train on, {data['test']:,} to test on"),
        *([("published", _published(record))] if training["epochs"] else []),
        ("training", f"{training['seconds']:,.0f} s, {training['images_per_second']:,.0f} images/s"),
        ("hardware", training["hardware"]),
        ("parameters", f"{record['parameters']:,}"),
        ("recipe", ", ".join(f"{key} {value}" for key, value in record["recipe"].items())),
    ]


def _findings(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was asked of the pictures before the training, and how far unfamiliar ones are noticed."""
    if part := record.get(OUTPUT):
        low, high = part["interval"]
        yield (
            "unfamiliar pictures",
            f"of the test pictures {part['test_share']:.1%} are called so by mistake (of all such pictures {low:.1%} "
            f"to {high:.1%} with 95 % certainty); the threshold is {part['threshold']:.4g}",
        )
    if part := record.get("bodies"):
        yield "networks compared", _by_folds(part)
    if part := record.get("resize"):
        yield "pictures that are not square", _by_folds(part)
    elif name := next((name for name, known in RESIZES.items() if known == record.get("input_convention")), ""):
        yield "pictures that are not square", name
    for name, part in record.get("augmentation", {}).items():
        if "plain" not in part:
            text = f"used; {part.get('groups', part['images']):,} are too few to tell whether your classes bear it"
        else:
            text = (
                f"{'used' if part['used'] else 'left out'}: by folds {part['plain']:.1%} of {part['images']:,} "
                f"pictures are right, and {part['with_copies']:.1%} with such copies"
            )
        yield f"changed copies: {name}", text


def _by_folds(part: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in part["accuracy"].items())
    return f"{part['chosen']} (right by folds on {part['pictures']:,} pictures: {shares})"


def _published(record: dict[str, Any]) -> str:
    if record["best_epoch"]:
        return f"epoch {record['best_epoch']} of {record['training']['epochs']}"
    return "the head on fixed features: no epoch is better on the validation images"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numbers = ' class="n"' if header else ""
    head = "".join(f"<th{numbers if i else ''}>{escape(cell)}</th>" for i, cell in enumerate(header))
    lines = (
        "<tr>" + "".join(f"<td{numbers if i else ''}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(lines) + "</table></div>"


def _pictures(chosen: np.ndarray, data: Dataset, probabilities: np.ndarray) -> Iterator[str]:
    for i in chosen:
        true, answer = data.y_test[i], int(probabilities[i].argmax())
        text = f"{data.labels[answer]} {probabilities[i, answer]:.2f}"
        if answer != true:
            text += f", is {data.labels[true]} ({probabilities[i, true]:.2f})"
        caption = escape(text)
        if data.files:  # so that a wrong label can be found and mended
            caption += f"<br><small>{escape(_name(data.files[len(data.x_train) + int(i)]))}</small>"
        yield f'<figure><img alt="" src="{_thumbnail(data.x_test[i])}"><figcaption>{caption}</figcaption></figure>'


def _doubted(doubted: Sequence[dict[str, Any]], data: Dataset) -> Iterator[str]:
    for one in doubted:
        i, count = one["picture"], len(data.x_train)
        image = data.x_train[i] if i < count else data.x_test[i - count]
        caption = escape(f"{one['looks_like']}? is {one['label']} ({one['probability_of_label']:.2f})")
        if data.files:
            caption += f"<br><small>{escape(_name(data.files[i]))}</small>"
        yield f'<figure><img alt="" src="{_thumbnail(image)}"><figcaption>{caption}</figcaption></figure>'


def _name(file: Path) -> str:
    """Its folder and its name; bytes that are no UTF-8 are shown as what they are."""
    return "/".join(file.parts[-2:]).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _thumbnail(image: np.ndarray) -> str:
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
