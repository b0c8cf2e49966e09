"""Known vulnerabilities in the pinned serving requirements, by pip-audit: `python requirements/audit.py`.

Fails on a vulnerability, and passes with a reason where the database cannot be reached: no network is no finding,
and no clean bill either.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
OPTIONS = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")


def audit(requirements: Path) -> int:
    """The number of known vulnerabilities; prints each, and what could not be looked up."""
    command = [sys.executable, "-m", "pip_audit", *OPTIONS, "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print(f"SKIP {requirements.name}: pip-audit did not reach its database")
        return 0
    looked_up = [package for package in packages if "vulns" in package]
    if len(looked_up) < len(packages):
        reason = next(package["skip_reason"] for package in packages if "skip_reason" in package)
        print(f"SKIP {requirements.name}: {len(packages) - len(looked_up)} of {len(packages)} packages: {reason}")
    found = [(package, vulnerability) for package in looked_up for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{requirements.name}: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if looked_up:
        print(f"{requirements.name}: {len(looked_up)} packages looked up, {len(found)} known vulnerabilities")
    else:
        print(f"{requirements.name}: NOT AUDITED, none of {len(packages)} packages could be looked up")
    return len(found)


if __name__ == "__main__":
    sys.exit(1 if sum(audit(FOLDER / name) for name in ("serving.txt", "serving-gpu.txt")) else 0)
