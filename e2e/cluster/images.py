"""The images that a cluster needs before any is built: single static binaries, packed here without a builder.

OCI image specification: a layer is a tar, a manifest names config and layers by digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

BUSYBOX = "octavo/busybox:1"
PAUSE = BUSYBOX  # a pod's sandbox sleeps
COREDNS = "octavo/coredns:1"
PROVISIONER = "octavo/local-path-provisioner:1"
BUSYBOX_BINARY = Path("/bin/busybox")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and the blobs that it names, by digest; an index of several is not made here."""

    manifest: bytes
    blobs: Mapping[str, bytes]


def cluster_images() -> dict[str, Image]:
    """The images that `cluster` itself runs, by name."""
    busybox = BUSYBOX_BINARY.read_bytes()
    applets = subprocess.run([BUSYBOX_BINARY, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{applet}": "/bin/busybox" for applet in applets if applet != "busybox"}
    return {
        BUSYBOX: pack({"bin/busybox": busybox}, ["/bin/sleep", "infinity"], links),
        COREDNS: pack({"coredns": build.binary("coredns").read_bytes()}, ["/coredns"]),
        PROVISIONER: pack(
            {"bin/local-path-provisioner": build.binary("local-path-provisioner").read_bytes()},
            ["/bin/local-path-provisioner"],
        ),
    }


def built_archives() -> list[Path]:
    """The archives that `make images` has built, the newest of each: ~/.cache/octavo/images/NAME-VERSION-KEY.tar.

    The image for GPUs is left out: gigabytes that no node here could run.
    """
    newest: dict[str, Path] = {}
    for path in sorted((build.cache_folder() / "images").glob("*.tar"), key=lambda path: path.stat().st_mtime):
        newest[path.stem.rpartition("-")[0]] = path
    return [path for name, path in newest.items() if not name.startswith("engine-cuda-")]


def pack(files: Mapping[str, bytes], command: Sequence[str], links: Mapping[str, str] | None = None) -> Image:
    """An image of executables (path → content) and symbolic links, with an empty /tmp, that runs `command`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for folder in sorted({str(Path(path).parent) for path in files} - {"."} | {"tmp"}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    packed = gzip.compress(layer.getvalue(), compresslevel=1, mtime=0)
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
    }
    return Image(json.dumps(manifest).encode(), {digest(blob): blob for blob in (config, packed)})


def digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}
