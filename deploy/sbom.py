"""`python -m deploy.sbom ROOT > sbom.json`: what an image holds, as a CycloneDX document (software bill of materials).

ROOT is an image's root file system, mounted or unpacked. Read are Debian's package database and copyright files, the
metadata of every Python distribution, wherever it is installed, and which Python runs them; what came into the image
another way is not seen. Licences are those that the authors declare: no licence text is interpreted.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id
from packageurl import PackageURL

from serving import __version__

# Names that can only mean one licence of the SPDX list. "BSD License" is not among them: there are several.
SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "bsd 3-clause": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
PYTHON_LICENSE = "Python-2.0.1"  # SPDX's name of CPython's own, https://spdx.org/licenses/Python-2.0.1.html


def python_distributions(root: Path) -> Iterator[Component]:
    """One for each name and version, in whichever environment."""
    seen = set()
    for metadata in sorted(root.rglob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"), headersonly=True)
        name, version = fields["Name"].lower().replace("_", "-"), fields["Version"]
        if (name, version) not in seen:
            seen.add((name, version))
            yield _component("pypi", None, name, version, licenses=_declared(fields))


def _declared(fields: Message) -> list[str]:
    """From the first field that says it: License-Expression (PEP 639), License, the classifiers."""
    expression = fields["License-Expression"]
    if expression:
        return [str(expression)]
    lines = [line.strip() for line in (fields["License"] or "").splitlines() if line.strip()]
    if len(lines) == 1 and lines[0].upper() != "UNKNOWN":
        return lines
    classified = [value.split(" :: ") for value in fields.get_all("Classifier", [])]
    names = [parts[-1] for parts in classified if parts[0] == "License" and parts[-1] != "OSI Approved"]
    return names or lines[:1]  # of a whole text, its heading


def interpreters(root: Path) -> Iterator[Component]:
    """The Python of each virtual environment; python:3.11-slim has one that is no package of Debian's."""
    versions = set()
    for configuration in sorted(root.glob("app/*/pyvenv.cfg")):
        lines = configuration.read_text().splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
        versions.add(fields.get("version_info") or fields.get("version", ""))
    for version in sorted(versions - {""}):
        yield _component("generic", None, "python", version, licenses=[PYTHON_LICENSE])


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
            licenses = _copyright(root, fields["Package"])
            yield _component("deb", "debian", fields["Package"], fields["Version"], qualifiers, licenses)


def _copyright(root: Path, package: str) -> list[str]:
    """Debian's short names in a package's copyright file, or the common licences that an old free text refers to."""
    file = (root / "usr" / "share" / "doc" / package / "copyright").resolve()
    if not file.is_relative_to(root.resolve()) or not file.is_file():
        return []
    text = file.read_text(errors="replace")
    pattern = r"^License:[ \t]*(\S.*?)\s*$" if text.startswith("Format:") else r"/common-licenses/([\w.+-]*\w)"
    return sorted(set(re.findall(pattern, text, re.M)))


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
    licenses: Sequence[str] = (),
) -> Component:
    purl = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=purl,
        bom_ref=str(purl),
        licenses=_licenses(licenses),
    )


def _licenses(names: Sequence[str]) -> Iterable[License]:
    """CycloneDX takes one SPDX expression, or any number of SPDX identifiers and free names, not both."""
    make, declared = LicenseFactory(), LicenseAcknowledgement.DECLARED
    known = [SPDX.get(name.lower(), name) for name in names]
    if len(known) == 1:
        return [make.make_from_string(known[0], license_acknowledgement=declared)]
    return [
        make.make_with_id(name, acknowledgement=declared)
        if fixup_id(name)
        else make.make_with_name(name, acknowledgement=declared)
        for name in known
    ]


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
    unknown = sorted(str(component.name) for component in bom.components if not component.licenses)
    if unknown:
        print(f"{len(unknown)} of {len(bom.components)} declare no licence: {', '.join(unknown)}", file=sys.stderr)
    print(JsonV1Dot6(bom).output_as_string(indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
