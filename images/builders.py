"""The programs that build a Containerfile: buildah where there is one, else docker.

How this machine reaches its package index (pip's configuration, the certificates it trusts) is lent to the build as
secrets and ends up in no layer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

AUTHORITIES = "/run/secrets/authorities"
LENT = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
MISSING = """neither buildah nor a docker daemon is here; install one of them:
  apt-get install buildah      (and run as root)
  https://docs.docker.com/engine/install/"""


class BuildError(Exception):
    """An image can't be built; says why and what to do."""


class Builder(Protocol):
    """`reference` is a name with its tag throughout."""

    name: str

    def pull(self, reference: str) -> bool:
        """Fetch the image if it is missing; True if it is here."""
        ...

    def add(self, reference: str, root: Path) -> None:
        """An image of one layer, from a tar archive of a root file system."""
        ...

    def build(self, context: Path, containerfile: str, reference: str, arguments: Sequence[str]) -> None: ...

    def save(self, reference: str, archive: Path) -> None:
        """Write it as an OCI archive."""
        ...

    def push(self, archive: Path, reference: str, *, tls: bool) -> None:
        """Put an archive's image into the registry that `reference` begins with."""
        ...


def find_builder() -> Builder:
    """The one that works here.

    Raises:
        BuildError: there is none.
    """
    if shutil.which("buildah") and os.geteuid() == 0:
        return Buildah()
    if shutil.which("docker") and _succeeds(["docker", "info"]):
        return Docker()
    raise BuildError(MISSING)


class Buildah:
    """chroot isolation: it needs neither a daemon nor a container runtime, and works inside containers."""

    name = "buildah"

    def pull(self, reference: str) -> bool:
        here = ["buildah", "inspect", "--type", "image", reference]  # pull asks a registry even for localhost/…
        return _succeeds(here) or _succeeds(["buildah", "pull", reference])

    def add(self, reference: str, root: Path) -> None:
        container = _run(["buildah", "from", "scratch"], capture=True)
        try:
            _run(["buildah", "add", "--quiet", container, str(root), "/"], capture=True)
            _run(["buildah", "commit", "--quiet", "--timestamp", "0", container, reference], capture=True)
        finally:
            _run(["buildah", "rm", container], capture=True)

    def build(self, context: Path, containerfile: str, reference: str, arguments: Sequence[str]) -> None:
        command = ["buildah", "bud", "--quiet", "--isolation", "chroot", "--layers", "--pull-never", "--timestamp", "0"]
        command += [word for each in arguments for word in ("--build-arg", each)]
        with lent_secrets() as secrets:
            _run([*command, *secrets, "-t", reference, "-f", containerfile, "."], context)

    def save(self, reference: str, archive: Path) -> None:
        _run(["buildah", "push", "--quiet", "--format", "oci", reference, f"oci-archive:{archive}:{reference}"])

    def push(self, archive: Path, reference: str, *, tls: bool) -> None:
        image = _run(["buildah", "pull", "--quiet", f"oci-archive:{archive}"], capture=True)
        _run(["buildah", "push", "--quiet", f"--tls-verify={str(tls).lower()}", image, f"docker://{reference}"])


class Docker:
    name = "docker"

    def pull(self, reference: str) -> bool:
        return _succeeds(["docker", "image", "inspect", reference]) or _succeeds(["docker", "pull", reference])

    def add(self, reference: str, root: Path) -> None:
        _run(["docker", "import", str(root), reference], capture=True)

    def build(self, context: Path, containerfile: str, reference: str, arguments: Sequence[str]) -> None:
        command = ["docker", "build", "--network", "host"]
        command += [word for each in arguments for word in ("--build-arg", each)]
        with lent_secrets() as secrets:
            _run([*command, *secrets, "-t", reference, "-f", containerfile, "."], context)

    def save(self, reference: str, archive: Path) -> None:
        # Since version 25 this is an OCI archive too.
        _run(["docker", "save", "-o", str(archive), reference])

    def push(self, archive: Path, reference: str, *, tls: bool) -> None:
        del tls  # the daemon's own list, insecure-registries, decides
        image = _run(["docker", "load", "--quiet", "-i", str(archive)], capture=True).partition(": ")[2]
        _run(["docker", "tag", image, reference])
        _run(["docker", "push", reference])


@contextmanager
def lent_secrets() -> Iterator[list[str]]:
    """`--secret` options with pip's settings of this machine and the certificates that it trusts."""
    settings = _pip_settings()
    authorities = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    lines = [f"{name} = {settings[name]}" for name in LENT if name in settings]
    secrets: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if authorities and Path(authorities).is_file():
            secrets += ["--secret", f"id=authorities,src={authorities}"]
            lines.append(f"cert = {AUTHORITIES}")
        configuration = Path(folder) / "pip.conf"
        configuration.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
        yield [*secrets, "--secret", f"id=pip,src={configuration}"]


def _pip_settings() -> dict[str, str]:
    """pip's settings by name, from its files and environment; the latter wins, as it does in pip."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return settings


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str], folder: Path | None = None, *, capture: bool = False) -> str:
    try:
        done = subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"`{' '.join(command[:3])} …` ended with status {error.returncode}; see above") from error
    return (done.stdout or "").strip()
