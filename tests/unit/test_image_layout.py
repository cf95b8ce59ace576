"""Images that we pack and carry ourselves: their layout, and which blobs travel."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from k8s.images.docker import unpack
from k8s.images.failure import CannotBuild
from k8s.images.layout import Blob, File, Layout
from k8s.images.load import missing, pack

NAME = "localhost/thing:dev"
FILES = [File("/bin/thing", b"\x7fELF", 0o755), File("etc/words", b"hello")]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def blob(letter: str) -> Blob:
    return Blob("application/octet-stream", f"sha256:{letter * 64}", 1)


def test_every_blob_of_a_written_image_is_there_under_its_digest_and_size(layout: Layout) -> None:
    image = layout.write(NAME, [FILES, [File("more", b"")]], {"Entrypoint": ["/bin/thing"]})
    blobs = layout.blobs(image)
    assert len(blobs) == 4
    for each in blobs:
        content = layout.path(each.digest).read_bytes()
        assert (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)) == (each.digest, each.size)


def test_index_of_a_layout_gives_the_image_its_full_name(layout: Layout) -> None:
    image = layout.write(NAME, [FILES], {})
    index = json.loads((layout.folder / "index.json").read_text())
    assert index["manifests"][0]["digest"] == image.digest
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == NAME
    assert json.loads((layout.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_files_of_a_layer_keep_their_mode_and_belong_to_root(layout: Layout) -> None:
    image = layout.write(NAME, [FILES], {})
    with tarfile.open(layout.path(layout.blobs(image)[2].digest)) as layer:
        found = {member.name: (member.mode, member.uid, member.mtime) for member in layer}
        assert found == {"bin/thing": (0o755, 0, 0), "etc/words": (0o644, 0, 0)}


def test_same_files_give_the_same_image_anywhere_and_other_files_another(tmp_path: Path) -> None:
    written = [
        Layout(tmp_path / place).write(NAME, [files], {"User": "10001:10001"}).digest
        for place, files in (("a", FILES), ("b", FILES), ("c", FILES[:1]))
    ]
    assert written[0] == written[1] != written[2]


def test_rewriting_an_image_and_pruning_leaves_only_its_own_blobs(layout: Layout) -> None:
    old = layout.blobs(layout.write(NAME, [FILES], {}))
    new = layout.blobs(layout.write(NAME, [[File("other", b"x")]], {}))
    layout.prune(new)
    assert {path.name for path in (layout.folder / "blobs/sha256").iterdir()} == {each.digest[7:] for each in new}
    assert not layout.path(old[0].digest).exists()


@pytest.mark.parametrize(
    ("held", "expected"), [("", "abc"), ("b", "ac"), ("abc", ""), ("xyz", "abc")], ids=["none", "one", "all", "others"]
)
def test_only_blobs_that_a_containerd_lacks_travel_and_each_of_them_once(held: str, expected: str) -> None:
    wanted = [blob(letter) for letter in "abca"]
    assert missing(wanted, {blob(letter).digest for letter in held}) == [blob(letter) for letter in expected]


def test_stream_for_an_import_names_the_image_and_carries_just_the_blobs_asked_for(layout: Layout) -> None:
    image = layout.write(NAME, [FILES], {})
    needed = missing(layout.blobs(image), {layout.blobs(image)[2].digest})
    stream = io.BytesIO()
    pack(stream, {"localhost/other:1": image}, layout, needed)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as carried:
        names = carried.getnames()
        index = json.load(carried.extractfile("index.json") or io.BytesIO())
    assert names == ["oci-layout", "index.json", *(f"blobs/sha256/{each.digest[7:]}" for each in needed)]
    assert index["manifests"][0]["annotations"] == {
        "io.containerd.image.name": "localhost/other:1",
        "org.opencontainers.image.ref.name": "1",
    }


def saved_by_docker(archive: Path, images: int = 1) -> tuple[bytes, bytes]:
    """What `docker save` writes, as far as all its versions agree: configuration and layer."""
    config, layer = b'{"os":"linux","config":{"User":"7"}}', b"a layer's bytes"
    listing = [{"Config": "c.json", "RepoTags": [NAME], "Layers": ["l/layer.tar"]}] * images
    with tarfile.open(archive, "w") as members:
        for name, content in (("c.json", config), ("l/layer.tar", layer), ("manifest.json", json.dumps(listing))):
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            members.addfile(entry, io.BytesIO(data))
    return config, layer


def test_image_saved_by_docker_becomes_the_layouts_image_unchanged(layout: Layout, tmp_path: Path) -> None:
    config, layer = saved_by_docker(tmp_path / "saved.tar")
    unpack(NAME, tmp_path / "saved.tar", layout)
    _, stored_config, stored_layer = layout.blobs(layout.manifest())
    assert layout.path(stored_config.digest).read_bytes() == config
    assert layout.path(stored_layer.digest).read_bytes() == layer
    assert layout.config(layout.manifest())["config"] == {"User": "7"}


def test_save_of_several_images_is_refused(layout: Layout, tmp_path: Path) -> None:
    saved_by_docker(tmp_path / "saved.tar", images=2)
    with pytest.raises(CannotBuild, match="2 images"):
        unpack(NAME, tmp_path / "saved.tar", layout)
