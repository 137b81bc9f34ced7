"""`make push` puts an image into the given registry and folder, over TLS or without."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from images import build as images
from images.builders import Buildah, Docker


@pytest.mark.parametrize(
    ("given", "registry", "tls"),
    [
        ("registry.example", "registry.example", True),
        ("registry.example:5000/team/", "registry.example:5000/team", True),
        ("https://registry.example/team", "registry.example/team", True),
        ("http://10.0.0.1:5000", "10.0.0.1:5000", False),
    ],
)
def test_a_registry_is_a_host_and_a_folder(given, registry, tls):
    assert images.registry_of(given) == (registry, tls)


@pytest.mark.parametrize("given", ["", "http://", "ftp://registry.example", "docker://registry.example", "://x"])
def test_what_is_no_registry_is_refused(given):
    with pytest.raises(argparse.ArgumentTypeError, match="is no registry"):
        images.registry_of(given)


def test_every_image_goes_where_the_chart_looks_for_it(monkeypatch):
    """REGISTRY/octavo/NAME:TAG, as `image.registry` names it."""
    pushed = []

    class Builder:
        def push(self, archive, reference, *, tls):
            pushed.append((str(archive), reference, tls))

    monkeypatch.setattr(images, "find_builder", Builder)
    for name, image in images.IMAGES.items():
        images.push(image, Path(f"{name}.tar"), "registry.example/team", tls=True)
    version = images.VERSION
    assert [reference for _, reference, _ in pushed] == [
        f"registry.example/team/octavo/operator:{version}",
        f"registry.example/team/octavo/engine:{version}",
        f"registry.example/team/octavo/engine:{version}-cuda",
    ]


@pytest.mark.parametrize(
    ("builder", "said", "last"),
    [
        (Buildah(), "0123abcd", "buildah push --quiet --tls-verify=false 0123abcd docker://registry.example/a:1"),
        (Docker(), "Loaded image: octavo/a:1", "docker push registry.example/a:1"),
    ],
    ids=["buildah", "docker"],
)
def test_what_is_pushed_is_the_archives_image(monkeypatch, builder, said, last):
    """The builder's storage may hold another checkout's image under that name."""
    ran = []

    def run(command, *_, **__):
        ran.append(" ".join(command))
        return said

    monkeypatch.setattr("images.builders._run", run)
    builder.push(Path("a.tar"), "registry.example/a:1", tls=False)
    assert "a.tar" in ran[0]
    assert ran[-1] == last
