"""Builds Octavo's images into OCI archives: `python3 images/build.py [operator] [engine] [engine-cuda] [--push REGISTRY]`.

Needs nothing but Python and either buildah (as root) or docker. An archive is named for everything that it is made
from, so nothing is built twice: ~/.cache/octavo/images/NAME-VERSION-KEY.tar. What it is built on is $OCTAVO_BASE, or
else python:3.12-slim where it can be pulled, or else a Debian with Python made by mmdebstrap.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from archives import report
from bases import find_base
from builders import BuildError, find_builder

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo").expanduser()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SHARED = ("pyproject.toml", "LICENSE", "images/build.lock", "images/health.py", "images/slim.sh", "images/trim.sh")


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is called, what it is made from, and how."""

    reference: str
    containerfile: str
    inputs: tuple[str, ...]  # files and folders that the Containerfile copies
    arguments: tuple[str, ...] = ()

    def copy_inputs(self, context: Path) -> None:
        """What a build sees, so that nobody's edit comes between the key and the build."""
        for name in (*SHARED, self.containerfile, *self.inputs):
            source, target = ROOT / name, context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(source, target)

    def key(self, base: str, context: Path) -> str:
        """Changes whenever a build would make something else."""
        digest = hashlib.sha256(repr((self.reference, self.arguments, base)).encode())
        for path in sorted(path for path in context.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(context)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def _engine(tag: str, variant: str, device: str) -> Image:
    inputs = (f"images/engine-{variant}.lock", "engine")
    arguments = (f"VARIANT={variant}", f"DEVICE={device}")
    return Image(f"octavo/engine:{tag}", "images/engine.Containerfile", inputs, arguments)


IMAGES = {
    "operator": Image(
        f"octavo/operator:{VERSION}",
        "images/operator.Containerfile",
        ("images/operator.lock", "engine/octavo", "engine/octavo_models", "operator"),
    ),
    "engine": _engine(VERSION, "cpu", "auto"),
    "engine-cuda": _engine(f"{VERSION}-cuda", "cuda", "cuda"),
}


def main() -> int:
    """Exit status: 0 the archives are there; 1 one could not be built; 2 usage."""
    parser = argparse.ArgumentParser(description="Build Octavo's images into OCI archives and report their sizes.")
    parser.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(IMAGES)}; by default the first two")
    parser.add_argument(
        "--push",
        type=registry_of,
        metavar="REGISTRY",
        help="push them there: registry.example, registry.example/team, http://10.0.0.1:5000 without TLS",
    )
    parser.add_argument("--paths", action="store_true", help="print the archives' paths and nothing else")
    parser.add_argument("--folder", type=Path, default=CACHE / "images", help="where they go (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(IMAGES):
        parser.error(f"no image {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    names = options.names or ["operator", "engine"]
    try:
        paths = {name: build(name, options.folder) for name in names}
        for name in names if options.push else ():
            push(IMAGES[name], paths[name], *options.push)
    except BuildError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for name, path in paths.items():
        print(path if options.paths else report(IMAGES[name].reference, path))
    return 0


def build(name: str, folder: Path) -> Path:
    """The archive of one image, built unless it is there; earlier ones of that image are removed.

    Raises:
        BuildError: with the reason and the remedy.
    """
    image = IMAGES[name]
    builder = find_builder()
    with locked(folder.parent / "base.lock"):
        base = find_base(builder, CACHE)
    with locked(folder.parent / f"{name}.lock"), tempfile.TemporaryDirectory() as temporary:
        context = Path(temporary)
        image.copy_inputs(context)
        path = folder / f"{name}-{VERSION}-{image.key(base, context)}.tar"
        if not path.exists():
            print(f"· {image.reference} on {base}, by {builder.name}", file=sys.stderr)
            partial = folder.parent / f"{path.name}.partial"
            partial.unlink(missing_ok=True)
            arguments = (f"BASE={base}", f"VERSION={VERSION}", *image.arguments)
            builder.build(context, image.containerfile, image.reference, arguments)
            builder.save(image.reference, partial)
            partial.rename(path)
        for other in folder.glob(f"{name}-[0-9]*.tar"):
            if other != path:
                other.unlink()
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder of a thing at a time: the second finds what the first has made."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def registry_of(text: str) -> tuple[str, bool]:
    """A registry, with the folder in it, and whether it speaks TLS."""
    scheme, separator, rest = text.rpartition("://")
    name = rest.rstrip("/")
    if scheme not in {"", "http", "https"} or (separator and not scheme) or not name or name != name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no registry; it is HOST[:PORT][/FOLDER]")
    return name, scheme != "http"


def push(image: Image, archive: Path, registry: str, tls: bool) -> None:
    """Put one image there, under the name that the chart gives it with `image.registry`.

    Raises:
        BuildError: the registry refused; its words are on stderr.
    """
    reference = f"{registry}/{image.reference}"
    print(f"· pushing {reference}", file=sys.stderr)
    find_builder().push(archive, reference, tls=tls)


if __name__ == "__main__":
    sys.exit(main())
