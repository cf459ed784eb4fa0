"""Files of packages, downloaded by the user's own pip, so that its mirrors, proxies and offline indexes serve here too.

Nothing is installed and no code of the package runs: a wheel is only fetched, and for the archive of a source
distribution, whose build pip would ask for the package's name, a stand-in answers from the archive's own PKG-INFO.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from simcsp.core.errors import InputError
from simcsp.core.files import replacing

_STAND_IN = """\
import email, os, re, shutil, sys

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        fields = email.message_from_file(file)
    name = re.sub(r"[-_.]+", "_", fields["Name"]) + "-" + fields["Version"] + ".dist-info"
    os.mkdir(os.path.join(folder, name))
    shutil.copyfile("PKG-INFO", os.path.join(folder, name, "METADATA"))
    return name

def get_requires_for_build_wheel(config_settings=None):
    return []

__legacy__ = sys.modules[__name__]
"""
_UNREACHED = re.compile(
    r"connection broken|Failed to establish|ConnectionError|ReadTimeout|ProxyError|SSLError|resolve"
)


class Unreachable(InputError):
    """pip found no index that has the package: there is no network, or its mirror lacks it."""


def download_package(requirement: str, sha256: str, path: Path, timeout: float) -> None:
    """Have pip put the file of a package, checked, at `path`. timeout: seconds that a silent server is waited for.

    Raises Unreachable where no index has it, InputError for all else that goes wrong; nothing is left behind.
    """
    with replacing(path) as aside:
        place = aside.parent
        backend = place / "stand-in/setuptools/build_meta.py"
        backend.parent.mkdir(parents=True)
        backend.write_text(_STAND_IN, encoding="utf-8")
        (backend.parent / "__init__.py").touch()
        asked = place / "requirements.txt"
        asked.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes"]
        command += ["--no-input", "--retries", "2", "--timeout", f"{timeout:g}", "--disable-pip-version-check"]
        command += [] if sys.stdout.isatty() else ["--quiet"]  # its bar needs a terminal
        command += ["--requirement", str(asked), "--dest", str(place / "files")]
        environment = os.environ | {"PYTHONPATH": str(backend.parent.parent), "PIP_USE_PEP517": "1"}
        result = subprocess.run(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        files = sorted((place / "files").glob("*"))
        if result.returncode or len(files) != 1:
            raise explained(result.stderr, requirement, path)
        os.replace(files[0], aside)


def explained(said: str, requirement: str, path: Path) -> InputError:
    """What pip said on stderr, in one line and with a remedy."""
    by_hand = f"on a machine that can, `pip download --no-deps {requirement}`, and put the file at {path}"
    if "No module named pip" in said:
        return InputError(f"{requirement}: {sys.executable} has no pip: python -m ensurepip, or, {by_hand}")
    if "DO NOT MATCH THE HASHES" in said or "do not match the hashes" in said.lower():
        return InputError(
            f"{requirement}: what pip got has not the sha256 kept in data/sources.py, and was removed: look at the "
            "index that pip is configured for (pip config list), or try again"
        )
    if "No space left" in said or "Errno 28" in said:
        return InputError(f"{requirement}: no space is left on the disk of {path.parent} or of TMPDIR: free some")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    last = re.sub(r"\(from versions: .*", "", errors[-1] if errors else (said.strip().splitlines() or ["failed"])[-1])
    if _UNREACHED.search(said):
        return Unreachable(
            f"{requirement}: pip cannot reach its index ({last.strip()}): check the network, or, {by_hand}"
        )
    if "No matching distribution" in said or "Could not find a version" in said:
        return Unreachable(f"{requirement}: no index that pip is configured for has it: add one, or, {by_hand}")
    return InputError(f"{requirement}: pip download failed ({last.strip()}): mend that, or, {by_hand}")
