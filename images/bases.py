"""The base of the images: a Debian with Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from images.builders import Builder, BuildError

DEFAULT = "docker.io/library/python:3.12-slim"
SUITE = "bookworm"
# As python:3.x-slim has it, but that Python is Debian's own.
PACKAGES = ("ca-certificates", "libstdc++6", "netbase", "python3", "python3-venv", "tzdata")
UNREACHABLE = f"""{DEFAULT} can't be pulled and there is no mmdebstrap to make a base of Debian's packages:
  OCTAVO_BASE=NAME names an image that can be pulled, a mirror's for instance
  apt-get install mmdebstrap   makes one (as root)"""


def find_base(builder: Builder, cache: Path) -> str:
    """A reference that `builder` has.

    Raises:
        BuildError: there is none, and none can be made.
    """
    if given := os.environ.get("OCTAVO_BASE"):
        if not builder.pull(given):
            raise BuildError(f"OCTAVO_BASE={given} can't be pulled; name an image that can, or leave it out")
        return given
    made = _made_from_debian(cache)
    if made.exists() or not builder.pull(DEFAULT):
        return _debian(builder, made)
    return DEFAULT


def _made_from_debian(cache: Path) -> Path:
    key = hashlib.sha256(repr((SUITE, PACKAGES)).encode()).hexdigest()[:12]
    return cache / "image-bases" / f"{SUITE}-{key}.tar"


def _debian(builder: Builder, root: Path) -> str:
    reference = f"localhost/octavo-base:{root.stem}"
    if not root.exists():
        if not shutil.which("mmdebstrap") or os.geteuid() != 0:
            raise BuildError(UNREACHABLE)
        print(f"· {DEFAULT} can't be pulled: a base of Debian's packages, by mmdebstrap", file=sys.stderr)
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = root.with_suffix(".partial")
        command = ["mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += ["--aptopt=APT::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*"]
        if subprocess.run([*command, SUITE, str(partial)], check=False).returncode:
            raise BuildError("mmdebstrap failed, see above; OCTAVO_BASE=NAME names an image to build on instead")
        partial.rename(root)
    if not builder.pull(reference):
        builder.add(reference, root)
    return reference
