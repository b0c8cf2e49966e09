"""`python -m deploy.sbom ROOT > sbom.json`: what an image holds, as a CycloneDX document (software bill of materials).

ROOT is an image's root file system, mounted or unpacked. Read are Debian's package database, the metadata of every
Python distribution, wherever it is installed, and which Python runs them; what came into the image another way is not
seen.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from serving import __version__

MAX_LICENCE = 60  # letters of a licence field that is a name; some packages put the whole text there


def python_distributions(root: Path) -> Iterator[Component]:
    """One for each name and version, in whichever environment."""
    seen = set()
    for metadata in sorted(root.rglob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"), headersonly=True)
        name, version = fields["Name"].lower().replace("_", "-"), fields["Version"]
        if (name, version) not in seen:
            seen.add((name, version))
            yield _component("pypi", None, name, version, licences=_licences(fields))


def _licences(fields: Message) -> list[License]:
    """As the distribution says it: an SPDX expression (PEP 639), or the older classifiers, or a short text."""
    expression = fields.get("License-Expression")
    if expression:
        return [LicenseExpression(expression.strip())]
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
    names = {line.rpartition(" :: ")[2].strip() for line in classifiers} - {"OSI Approved"}
    text = " ".join((fields.get("License") or "").split())
    if not names and text and len(text) <= MAX_LICENCE:
        names = {text}
    return [DisjunctiveLicense(name=name) for name in sorted(names)]


def interpreters(root: Path) -> Iterator[Component]:
    """The Python of each virtual environment; python:3.11-slim has one that is no package of Debian's."""
    versions = set()
    for configuration in sorted(root.glob("app/*/pyvenv.cfg")):
        lines = configuration.read_text().splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
        versions.add(fields.get("version_info") or fields.get("version", ""))
    for version in sorted(versions - {""}):
        yield _component("generic", None, "python", version)


def debian_packages(root: Path) -> Iterator[Component]:
    """The installed ones."""
    status = root / "var" / "lib" / "dpkg" / "status"
    if not status.exists():
        return
    distribution = _distribution(root)
    for paragraph in status.read_text(errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph, headersonly=True)
        if fields["Package"] and fields["Status"] == "install ok installed":
            qualifiers = {"arch": fields["Architecture"]} | distribution
            if fields["Source"]:
                qualifiers["upstream"] = fields["Source"].split()[0]
            yield _component("deb", "debian", fields["Package"], fields["Version"], qualifiers)


def _distribution(root: Path) -> dict[str, str]:
    """What vulnerability scanners look the packages up by."""
    file = root / "etc" / "os-release"
    lines = file.read_text().splitlines() if file.is_file() else []
    fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    return {"distro": f"{fields['ID']}-{fields['VERSION_ID']}"} if {"ID", "VERSION_ID"} <= fields.keys() else {}


def _component(
    kind: str,
    namespace: str | None,
    name: str,
    version: str,
    qualifiers: dict[str, str] | None = None,
    licences: Sequence[License] = (),
) -> Component:
    purl = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(
        type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=str(purl), licenses=licences
    )


def bill(root: Path, name: str = "shortcut") -> Bom:
    bom = Bom(components=[*python_distributions(root), *interpreters(root), *debian_packages(root)])
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name=name, version=__version__, bom_ref=name)
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description=__doc__)
    parser.add_argument("root", type=Path, help="the root file system of an image")
    parser.add_argument("--name", default="shortcut", help="of the image (default: %(default)s)")
    args = parser.parse_args(argv)
    bom = bill(args.root, args.name)
    if not bom.components:
        print(f"error: {args.root}: holds no Python distribution and no Debian package", file=sys.stderr)
        return 1
    print(JsonV1Dot6(bom).output_as_string(indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
