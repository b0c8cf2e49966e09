"""`python -m serving.fetch URL --to models`: a model on a disk, a web server or an object store -> a verified version.

The model is a version's folder or a tar of one. It is checked against its card's SHA-256 beside its place, and renamed
there whole: a service never sees a half-fetched model. Knows neither the service nor ONNX Runtime.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from serving import artifacts
from serving.artifacts import FILES, Artifact
from serving.errors import StartError

WITHOUT_FSSPEC = ("", "file", "http", "https")
# The package of each object store, beside fsspec.
STORES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 8 * 1024**3  # of all files together: what is larger is no model of this service, and would fill a disk
PIECE = 1024 * 1024
TIMEOUT_SECONDS = 60.0
TEMPORARY = r"\S*/\.tmp-[^/]*/(fetched|models)/"  # a reader's business is the file behind it


class FetchError(RuntimeError):
    """One line that says which model could not be fetched, and why. It repeats no user and password of an address."""

    def __init__(self, text: str):
        super().__init__(re.sub(r"(?<=://)[^/\s]*@", "", text))


def fetch(url: str, models: Path, sha256: str | None = None, version: int | None = None) -> Path:
    """The folder models/<name>/<version>, which holds the verified model behind `url`.

    `sha256` is that of the tar, or of model.onnx where `url` is a folder. `version` is the folder's own by default,
    else 1. A version that is there already with the same model.onnx is left as it is. Raises FetchError.
    """
    try:
        urllib.parse.urlsplit(url)
    except ValueError as err:
        raise FetchError(f"{url}: is no address ({err})") from err
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".tmp-", dir=models
        ) as beside:  # so that a rename is enough, and atomic
            folder = Path(beside, "fetched")
            folder.mkdir()
            packed_version = _of_tar(url, folder, sha256) if _is_tar(url) else _of_folder(url, folder)
            place = Path(beside, "models", _name_of(url, folder), str(version or packed_version or 1))
            place.parent.mkdir(parents=True)
            folder.rename(place)
            artifact = artifacts.read(place)  # every file against the card, before anything sees it
            if sha256 is not None and not _is_tar(url):
                _compare(f"{url}: model.onnx", artifact.sha256, sha256)
            return _publish(artifact, models / artifact.name / place.name)
    except StartError as err:
        raise FetchError(f"{url}: {re.sub(TEMPORARY, '', str(err))}") from err
    except OSError as err:
        raise FetchError(f"{url}: cannot be fetched into {models} ({err.strerror or err})") from err


def _publish(artifact: Artifact, place: Path) -> Path:
    """Renamed into its place. Where another process was faster, or was here before, the same model is as good."""
    place.parent.mkdir(exist_ok=True)
    try:
        artifact.path.rename(place)
    except OSError:
        if not place.exists():
            raise
        with contextlib.suppress(StartError):
            if artifacts.read(place).sha256 == artifact.sha256:
                return place
        reason = "is there already, and is another model or damaged: choose another --version"
        raise FetchError(f"{place}: {reason}") from None
    return place


def _is_tar(url: str) -> bool:
    return urllib.parse.urlsplit(url).path.lower().endswith(TARS)


def _of_folder(url: str, folder: Path) -> int | None:
    """Its files into `folder`; the version that the folder's name says."""
    split = urllib.parse.urlsplit(url)
    path = split.path.rstrip("/")
    left = MAX_BYTES
    for file in FILES:
        address = urllib.parse.urlunsplit(split._replace(path=f"{path}/{file}"))
        left -= _save(address, folder / file, left)
    last = path.rpartition("/")[2]
    return int(last) if re.fullmatch("[1-9][0-9]*", last) else None


def _of_tar(url: str, folder: Path, sha256: str | None) -> int | None:
    """The model's files out of the tar; the version that the folder in it says. Nothing else is unpacked, and no name
    in it is used as a path."""
    archive = folder.with_name("archive")
    _save(url, archive, MAX_BYTES)
    if sha256 is not None:
        with archive.open("rb") as file:
            _compare(url, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
    inside: dict[str, PurePosixPath] = {}
    left = MAX_BYTES
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.name not in FILES:
                    continue
                if path.name in inside:
                    raise FetchError(f"{url}: holds more than one model ({inside[path.name]}, {path})")
                inside[path.name] = path
                left -= member.size
                source = tar.extractfile(member)
                if source is None or left < 0:
                    raise FetchError(f"{url}: unpacked it is larger than {MAX_BYTES:,} bytes")
                with source, (folder / path.name).open("wb") as target:
                    shutil.copyfileobj(source, target, PIECE)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as err:
        raise FetchError(f"{url}: is truncated, damaged or no tar ({_first_line(err)})") from err
    missing = [file for file in FILES if file not in inside]
    if missing:
        raise FetchError(f"{url}: lacks {', '.join(missing)}")
    folders = {path.parent for path in inside.values()}
    if len(folders) > 1:
        raise FetchError(f"{url}: the model's files lie in different folders: {', '.join(sorted(map(str, folders)))}")
    last = folders.pop().name
    return int(last) if re.fullmatch("[1-9][0-9]*", last) else None


def _name_of(url: str, folder: Path) -> str:
    """What the card calls the model, which must do for the name of a folder."""
    try:
        name = json.loads((folder / "card.json").read_bytes())["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise FetchError(f"{url}: card.json names no model") from err
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name)):
        raise FetchError(f"{url}: the card calls the model {str(name)[:80]!r}, which is no name for a folder")
    return name


def _save(url: str, path: Path, most: int) -> int:
    """Its bytes into a file; their number. Raises FetchError."""
    size = 0
    with _opened(url) as source, path.open("wb") as target:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > most:
                raise FetchError(f"{url}: larger than {MAX_BYTES:,} bytes")
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    return size


@contextlib.contextmanager
def _opened(url: str) -> Iterator[BinaryIO | Any]:
    split = urllib.parse.urlsplit(url)
    try:
        if split.scheme in ("", "file"):
            with Path(urllib.request.url2pathname(split.path)).open("rb") as file:
                yield file
        elif split.scheme in WITHOUT_FSSPEC:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - http or https
                expected = answer.headers.get("content-length")
                yield _Whole(answer, int(expected) if expected else None)
        else:
            with _fsspec(split.scheme).open(url, "rb") as file:
                yield file
    except urllib.error.HTTPError as err:
        raise FetchError(f"{url}: the server answers {err.code} {_first_line(err.reason)}") from err
    except http.client.InvalidURL as err:
        raise FetchError(f"{url}: is no address ({err})") from err
    except http.client.HTTPException as err:  # it speaks something else, or stopped in the middle of a chunk
        raise FetchError(f"{url}: the server's answer is cut off, or no HTTP ({_first_line(repr(err))})") from err
    except (ImportError, ValueError) as err:  # the package of a store is missing, or nobody knows the protocol
        raise FetchError(f"{url}: {err}") from err
    except FileNotFoundError as err:
        raise FetchError(f"{url}: no such file") from err
    except OSError as err:
        raise FetchError(f"{url}: cannot be read ({getattr(err, 'reason', None) or err.strerror or err})") from err


def _first_line(message: object) -> str:
    """What a library says; behind its first line some have a list of all that they tried."""
    return str(message).partition("\n")[0].rstrip(": ")


class _Whole:
    """An answer that is cut off is an error: urllib takes what came for all."""

    def __init__(self, answer: Any, expected: int | None):
        self._answer, self._left = answer, expected

    def read(self, size: int) -> bytes:
        piece: bytes = self._answer.read(size)
        if self._left is not None:
            self._left -= len(piece)
            if not piece and self._left > 0:
                raise OSError(f"the answer ended {self._left:,} bytes early")
        return piece


def _fsspec(scheme: str) -> Any:
    """Where a store's own package is missing, fsspec names it."""
    try:
        import fsspec
    except ImportError as err:
        packages = f"fsspec {STORES.get(scheme, '')}".rstrip()
        raise ImportError(f"{scheme}:// needs packages that are not here: `pip install {packages}`") from err
    return fsspec


def _compare(what: str, actual: str, expected: str) -> None:
    expected = expected.lower().removeprefix("sha256:")
    if actual != expected:
        raise FetchError(f"{what}: has SHA-256 {actual}, expected {expected}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.fetch",
        description="Fetch one model, verify it, and put it into a models folder.",
        epilog="s3://, gs://, abfs:// and others need fsspec and the store's package (s3fs, gcsfs, adlfs) beside it.",
    )
    text = "a version's folder (…/digits_cnn-mnist/1) or a tar of one: a path, file://, http(s)://, what fsspec reaches"
    parser.add_argument("url", metavar="URL", help=text)
    parser.add_argument("--to", type=Path, required=True, metavar="MODELS", help="the models folder")
    parser.add_argument("--sha256", help="of the tar, or of model.onnx where URL is a folder")
    parser.add_argument("--version", type=int, help="default: the number that the folder is called, else 1")
    args = parser.parse_args(argv)
    if args.sha256 is not None and not re.fullmatch("(sha256:)?[0-9a-fA-F]{64}", args.sha256):
        parser.error(f"--sha256 must be 64 hex digits, got {args.sha256}")
    if args.version is not None and args.version < 1:
        parser.error(f"--version must be at least 1, got {args.version}")
    try:
        place = fetch(args.url, args.to, args.sha256, args.version)
    except FetchError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{place}: verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
