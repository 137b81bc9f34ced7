"""Images packed without a builder, and pushed into a registry."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest
from e2e.cluster.images import MANIFEST, digest, pack
from e2e.cluster.registry import Registry, RegistryError, names_in, split_name
from registry_stand_in import RegistryStandIn


@pytest.fixture
def registry():
    with RegistryStandIn().running() as running:
        yield running


def test_an_image_holds_its_programs_its_links_and_a_folder_for_all():
    image = pack({"bin/tool": b"program"}, ["/bin/tool"], {"bin/sh": "/bin/tool"})
    manifest = json.loads(image.manifest)
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    layer = gzip.decompress(image.blobs[manifest["layers"][0]["digest"]])
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["rootfs"]["diff_ids"] == [digest(layer)]
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert archive.extractfile("bin/tool").read() == b"program"
        assert archive.getmember("bin/tool").mode == 0o755
        assert archive.getmember("bin/sh").linkname == "/bin/tool"
        assert archive.getmember("tmp").mode == 0o1777


def test_the_same_programs_give_the_same_image():
    """A registry that has it is then not asked to take it again."""
    assert pack({"a": b"1"}, ["/a"]) == pack({"a": b"1"}, ["/a"])
    assert pack({"a": b"1"}, ["/a"]).manifest != pack({"a": b"2"}, ["/a"]).manifest


def test_what_the_registry_has_is_not_sent_again(registry):
    image = pack({"a": b"1"}, ["/a"])
    Registry(registry.address).push("octavo/a:1", image)
    assert registry.manifests["octavo/a", "1"] == image.manifest
    Registry(registry.address).push("octavo/a:2", image)
    assert registry.uploads == 2
    assert set(registry.manifests) == {("octavo/a", "1"), ("octavo/a", "2")}


def test_an_archive_is_pushed_under_the_name_it_gives(registry, tmp_path):
    """The name of Docker's hub is left out: the registry stands for it."""
    archive = write_archive(tmp_path / "a.tar", "docker.io/octavo/engine:0.1.0")
    assert Registry(registry.address).push_archive(archive) == ["octavo/engine:0.1.0"]
    assert ("octavo/engine", "0.1.0") in registry.manifests
    assert names_in(archive) == ["docker.io/octavo/engine:0.1.0"]


def test_an_archive_for_several_architectures_is_pushed_whole(registry, tmp_path):
    archive = write_archive(tmp_path / "a.tar", "octavo/engine:0.1.0", several=True)
    assert Registry(registry.address).push_archive(archive) == ["octavo/engine:0.1.0"]
    index = json.loads(registry.manifests["octavo/engine", "0.1.0"])
    assert all(("octavo/engine", child["digest"]) in registry.manifests for child in index["manifests"])


def test_what_is_no_oci_archive_is_refused_with_the_way_to_write_one(registry, tmp_path):
    text = tmp_path / "text"
    text.write_text("no tar")
    docker = tmp_path / "docker.tar"
    with tarfile.open(docker, "w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"))
    for path in (text, docker):
        with pytest.raises(RegistryError, match=r"is no OCI archive(.|\n)*oci-archive:"):
            Registry(registry.address).push_archive(path)
    with pytest.raises(RegistryError, match="gives its image no name"):
        Registry(registry.address).push_archive(write_archive(tmp_path / "a.tar", ""))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("octavo/engine:0.1.0", ("octavo/engine", "0.1.0")), ("docker.io/octavo/engine:1", ("octavo/engine", "1"))],
)
def test_a_name_is_a_repository_and_a_tag(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["octavo/engine", "host:5000/engine", ""])
def test_a_name_without_a_tag_is_refused(name):
    with pytest.raises(RegistryError, match="has no tag"):
        split_name(name)


def write_archive(path, name, several=False):
    image = pack({"a": b"1"}, ["/a"])
    blobs = dict(image.blobs) | {digest(image.manifest): image.manifest}
    top = {"mediaType": MANIFEST, "digest": digest(image.manifest), "size": len(image.manifest)}
    if several:
        media_type = "application/vnd.oci.image.index.v1+json"
        index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [top]}).encode()
        blobs[digest(index)] = index
        top = {"mediaType": media_type, "digest": digest(index), "size": len(index)}
    if name:
        top["annotations"] = {"org.opencontainers.image.ref.name": name}
    files = {f"blobs/{key.replace(':', '/')}": blob for key, blob in blobs.items()}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    with tarfile.open(path, "w") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
