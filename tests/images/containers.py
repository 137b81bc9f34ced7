"""Runs an image as the strictest cluster would: read-only root, user 65532, no capability, no network, PID 1 its own."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

USER = 65532
TMPFS = ["nosuid", "nodev", "mode=1777"]

# Bit 14 of the caught signals; built-ins alone, so that hardly any time passes.
END_AT_ONCE = """
until [ "$heard" ]; do
    while read -r name value; do
        case $name$value in SigCgt:*[4567cdef]???) heard=1 ;; esac
    done </proc/1/status
done
kill -TERM 1
cat /proc/[0-9]*/cmdline
"""


class Image:
    """An OCI archive of one image, its layers unpacked into `folder`."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive = archive
        self.root = folder / "rootfs"
        with tarfile.open(archive) as tar:
            manifest = _json(tar, _blob(_json(tar, "index.json")["manifests"][0]["digest"]))
            self.config: dict[str, Any] = _json(tar, _blob(manifest["config"]["digest"]))["config"]
            for layer in manifest["layers"]:
                with tarfile.open(fileobj=tar.extractfile(_blob(layer["digest"]))) as files:
                    files.extractall(self.root, filter="fully_trusted")

    @property
    def site_packages(self) -> Path:
        return next((self.root / "opt/octavo/lib").glob("python3.*")) / "site-packages"


class Container:
    """One run of an image; `args` follow its entry point, `mounts` are host folders by their place inside."""

    health: tuple[str, ...] = ()

    def __init__(
        self,
        image: Image,
        folder: Path,
        args: Sequence[str],
        mounts: dict[str, Path] | None = None,
        entrypoint: Sequence[str] | None = None,
        **env: str,
    ) -> None:
        self.id = f"octavo-test-{os.getpid()}-{time.monotonic_ns()}"
        self.log = folder / "log"
        self._env = [*image.config["Env"], *(f"{name}={value}" for name, value in env.items())]
        folder.mkdir(parents=True, exist_ok=True)
        spec = _spec(folder)
        spec["process"] |= {
            "terminal": False,
            "args": [*(entrypoint or image.config["Entrypoint"]), *args],
            "env": self._env,
            "cwd": "/",
            "user": {"uid": USER, "gid": USER},
            "capabilities": {},
            "noNewPrivileges": True,
        }
        spec["root"] = {"path": str(image.root), "readonly": True}
        spec["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": TMPFS},
            {"destination": "/var/cache/octavo", "type": "tmpfs", "source": "tmpfs", "options": TMPFS},
        ] + [
            {"destination": inside, "type": "bind", "source": str(path), "options": ["rbind", "ro"]}
            for inside, path in (mounts or {}).items()
        ]
        (folder / "config.json").write_text(json.dumps(spec))
        self._log = self.log.open("wb")
        self.process = subprocess.Popen(
            ["runc", "run", "--bundle", str(folder), self.id], stdout=self._log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["runc", "kill", self.id, "KILL"], capture_output=True, check=False)
        self.process.wait(30)
        subprocess.run(["runc", "delete", "--force", self.id], capture_output=True, check=False)
        self._log.close()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """`command` inside, as PID 1's user and with its environment."""
        env = [word for each in self._env for word in ("--env", each)]
        return subprocess.run(
            ["runc", "exec", "--user", f"{USER}:{USER}", *env, self.id, *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, source: str) -> str:
        done = self.run("python", "-c", source)
        assert done.returncode == 0, done.stdout + done.stderr + self.output
        return done.stdout

    def signal(self, name: str) -> None:
        subprocess.run(["runc", "kill", self.id, name], check=True)

    def end_once_it_listens_to_sigterm(self) -> str:
        """SIGTERM as soon as PID 1 has any handler for it; the command lines of all processes at that moment."""
        return self.run("sh", "-c", END_AT_ONCE).stdout

    def wait(self, seconds: float) -> int:
        """PID 1's exit status."""
        return self.process.wait(seconds)

    def wait_until_running(self, seconds: float = 30) -> None:
        self._wait(lambda: self.run("true").returncode == 0, seconds)

    def wait_until_healthy(self, seconds: float) -> None:
        self._wait(lambda: self.run(*self.health).returncode == 0, seconds)

    def _wait(self, reached: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.2)


def _spec(folder: Path) -> dict[str, Any]:
    (folder / "config.json").unlink(missing_ok=True)
    subprocess.run(["runc", "spec", "--bundle", str(folder)], check=True)
    spec: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return spec


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(archive: tarfile.TarFile, name: str) -> Any:
    stream = archive.extractfile(name)
    assert stream is not None, name
    return json.load(stream)
