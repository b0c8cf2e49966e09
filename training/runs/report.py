"""A run's record and test answers -> plots, and report.html: one file that opens without a connection.

Everything a user wrote is escaped, pictures are data URIs, and the page allows itself to load nothing. Knows nothing of
how the model was trained.
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
from training.data.dataset import Dataset
from training.runs.plots import plot_confusion, plot_curves, plot_reliability

SHOWN = 24  # pictures of each kind
THUMBNAIL = 112  # pixels of the longer side
PLOTS = {"curves.png": "Curves", "confusion.png": "Confusion", "reliability.png": "Calibration"}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums }} img {{ max-width: 100% }}
.warning {{ background: #fff3cd; padding: .4rem .8rem }} figure {{ display: inline-block; margin: 0 .8rem .8rem 0 }}
figcaption {{ font-size: 12px; max-width: 9rem; overflow-wrap: anywhere }} figure img {{ width: 7rem }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_report(folder: Path, record: dict[str, Any], data: Dataset, probabilities: np.ndarray) -> None:
    """Write the plots and report.html. `record` is run.json's, `probabilities` (N, K) answer the test images."""
    title = f"{record['model']} version {record['version']}"
    plot_curves(record["history"], title, folder / "curves.png")
    plot_confusion(np.array(record["confusion"]), data.labels, title, folder / "confusion.png")
    hits = probabilities.argmax(axis=1) == data.y_test
    plot_reliability(probabilities.max(axis=1), hits, title, folder / "reliability.png")
    page = _PAGE.format(title=escape(title), body="\n".join(_body(folder, record, data, probabilities)))
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")


def _body(folder: Path, record: dict[str, Any], data: Dataset, probabilities: np.ndarray) -> Iterator[str]:
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != data.y_test)
    two = np.sort(probabilities, axis=1)[:, -2:]
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    doubtful = np.argsort(two[:, 1] - two[:, 0], kind="stable")[:SHOWN]
    yield from (f'<p class="warning">{escape(text)}</p>' for text in record["warnings"])
    yield _table((), _figures(record))
    yield "<h2>By class</h2>" + _table(*by_class(np.array(record["confusion"]), data.labels))
    for name, title in PLOTS.items():
        yield f'<h2>{title}</h2><img alt="{title}" src="{_data_uri((folder / name).read_bytes(), "png")}">'
    yield f"<h2>Wrong and surest of it</h2><p>{len(wrong):,} of {len(predicted):,} test images are answered wrong.</p>"
    yield from _pictures(worst, data, probabilities)
    yield "<h2>In most doubt</h2>"
    yield from _pictures(doubtful, data, probabilities)
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
    if found := record.get("calibration"):
        told = (
            f"{found['temperature']:.3f} (calibration error {found['before']:.4f} before, {found['after']:.4f} after)"
        )
        rows.append(("temperature", told))
    if found := record.get("threshold"):
        told = f"{found['probability']:.3f} is right in {found['precision']:.1%} and reached by {found['coverage']:.1%}"
        rows.append(("threshold on validation", told))
    return [
        *rows,
        ("data", f"{data['origin']}: {data['train']:,} images to train on, {data['test']:,} to test on"),
        ("published", f"epoch {record['best_epoch']} of {training['epochs']}"),
        ("training", f"{training['seconds']:,.0f} s, {training['images_per_second']:,.0f} images/s"),
        ("hardware", training["hardware"]),
        ("parameters", f"{record['parameters']:,}"),
        ("recipe", ", ".join(f"{key} {value}" for key, value in record["recipe"].items())),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numbers = ' class="n"' if header else ""
    head = "".join(f"<th{numbers if i else ''}>{escape(cell)}</th>" for i, cell in enumerate(header))
    lines = (
        "<tr>" + "".join(f"<td{numbers if i else ''}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"


def _pictures(chosen: np.ndarray, data: Dataset, probabilities: np.ndarray) -> Iterator[str]:
    for i in chosen:
        true, answer = data.y_test[i], int(probabilities[i].argmax())
        told = f"{data.labels[answer]} {probabilities[i, answer]:.2f}"
        if answer != true:
            told += f", is {data.labels[true]} ({probabilities[i, true]:.2f})"
        yield f'<figure><img alt="" src="{_thumbnail(data.x_test[i])}"><figcaption>{escape(told)}</figcaption></figure>'


def _thumbnail(image: np.ndarray) -> str:
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
