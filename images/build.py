"""Builds Octavo's images into OCI archives: `python3 -m images.build [operator] [engine] [engine-cuda] [--push REGISTRY]`.

`--capability 90 --model FOLDER` has engine-cuda bring that model's kernels along, compiled for that kind of GPU.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from images.archives import report
from images.bases import find_base
from images.builders import BuildError, find_builder

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo").expanduser()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SHARED = ("pyproject.toml", "LICENSE", "images/build.lock", "images/health.py", "images/slim.sh", "images/trim.sh")


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its name, and what it is made from."""

    reference: str
    containerfile: str
    inputs: tuple[str, ...]  # files and folders that the Containerfile copies
    arguments: tuple[str, ...] = ()
    model: Path | None = None  # config.json or a GGUF file, whose kernels the image brings along

    def copy_inputs(self, context: Path) -> None:
        """Copy what a build sees, so that no edit comes between the key and the build."""
        for name in (*SHARED, self.containerfile, *self.inputs):
            source, target = ROOT / name, context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(source, target)
        if self.model is not None:
            shutil.copy2(self.model, context / "images" / f"kernels{self.model.suffix}")

    def key(self, base: str, context: Path) -> str:
        """Changes whenever a build would make something else."""
        digest = hashlib.sha256(repr((self.reference, self.arguments, base)).encode())
        for path in sorted(path for path in context.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(context)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def _engine(tag: str, variant: str, device: str) -> Image:
    inputs = (f"images/engine-{variant}.lock", "images/kernels.sh", "engine")
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


def with_kernels(image: Image, capabilities: Sequence[str], model: Path, flags: str) -> Image:
    """`image` with the kernels of `model` for GPUs of these compute capabilities, as `octavo serve` with `flags` asks.

    Raises:
        BuildError: there is no model's description at `model`.
    """
    described = model / "config.json" if model.is_dir() else model
    if described.suffix not in {".json", ".gguf"} or not described.is_file():
        raise BuildError(
            f"--model {model} describes no model; name a folder with its config.json, or a GGUF file, on this machine"
        )
    arguments = (*image.arguments, f"CAPABILITIES={' '.join(capabilities)}", f"COMPILE_FLAGS={flags}")
    return replace(image, arguments=arguments, model=described)


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
    kernels = parser.add_argument_group("kernels that engine-cuda brings along (docs/kernels.md)")
    kernels.add_argument(
        "--capability",
        action="append",
        default=[],
        metavar="N",
        help="compute capability, such as 90; may be given again",
    )
    kernels.add_argument("--model", type=Path, metavar="PATH", help="a folder with config.json, or a GGUF file")
    kernels.add_argument(
        "--compile-flags", default="", metavar="FLAGS", help="of octavo serve that change kernels: '--max-num-seqs 64'"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(IMAGES):
        parser.error(f"no image {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
    names = options.names or ["operator", "engine"]
    if bool(options.capability) != (options.model is not None) or (options.model and "engine-cuda" not in names):
        parser.error("kernels are compiled with both --capability and --model, into the image engine-cuda")
    options.folder.mkdir(parents=True, exist_ok=True)
    images = dict(IMAGES)
    try:
        if options.model is not None:
            images["engine-cuda"] = with_kernels(
                IMAGES["engine-cuda"], options.capability, options.model, options.compile_flags
            )
        paths = {name: build(name, images[name], options.folder) for name in names}
        for name in names if options.push else ():
            push(images[name], paths[name], *options.push)
    except BuildError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for name, path in paths.items():
        print(path if options.paths else report(images[name].reference, path))
    return 0


def build(name: str, image: Image, folder: Path) -> Path:
    """The archive of one image, built unless it is there; earlier ones of that name are removed.

    Raises:
        BuildError: with the reason and the remedy.
    """
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
