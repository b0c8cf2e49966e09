"""Known vulnerabilities in the pinned serving requirements, by pip-audit: `python requirements/audit.py`.

Fails on a vulnerability. Where the database cannot be reached it passes, because no network is no finding, and says
"not audited" with the reason; a number of vulnerabilities is printed only beside what was looked up.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
OPTIONS = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
LIMIT_SECONDS = 90  # Of one file; where the network answers nothing, pip-audit would try for minutes
NAMED = 5  # How many of the packages that were not looked up are named


def audit(requirements: Path) -> int:
    """The number of known vulnerabilities; prints each, and what could not be looked up."""
    name = requirements.name
    command = [sys.executable, "-m", "pip_audit", *OPTIONS, "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"NOT AUDITED {name}: pip-audit did not end within {LIMIT_SECONDS} s")
        return 0
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        print(f"NOT AUDITED {name}: {said[-1].strip() if said else 'pip-audit said nothing'}")
        return 0
    looked_up = [package for package in packages if "vulns" in package]
    skipped = [package for package in packages if "vulns" not in package]
    if not looked_up:
        reason = skipped[0].get("skip_reason", "no reason given") if skipped else "pip-audit saw no package"
        print(f"NOT AUDITED {name}: none of {len(packages)} packages was looked up: {reason}")
        return 0
    found = [(package, vulnerability) for package in looked_up for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{name}: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{name}: {len(looked_up)} of {len(packages)} packages looked up, {len(found)} known vulnerabilities")
    if skipped:
        names = ", ".join(package["name"] for package in skipped[:NAMED]) + (", …" if len(skipped) > NAMED else "")
        reason = skipped[0].get("skip_reason", "no reason given")
        print(f"NOT AUDITED {name}: {len(skipped)} of {len(packages)} packages ({names}): {reason}")
    return len(found)


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:  # it waits for the network
        counts = pool.map(audit, [FOLDER / name for name in ("serving.txt", "serving-gpu.txt")])
    sys.exit(1 if sum(counts) else 0)
