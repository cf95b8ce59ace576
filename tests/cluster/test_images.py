"""The images as they are built here: who runs in them, what is in them, and what is not."""

import json
import os
import re
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from k8s.images.store import AGENT, CONTROL
from k8s.images.workshop import CHECKOUT, Built, Workshop
from tests.fixtures.images import Rootfs

pytestmark = pytest.mark.needs("images")

BOTH = pytest.mark.parametrize("name", [AGENT, CONTROL])
Look = Callable[[str], Rootfs]
MIB = 1 << 20


@pytest.mark.parametrize(("name", "uid", "account"), [(AGENT, 10001, "agent"), (CONTROL, 10002, "berth")])
def test_image_runs_as_its_own_unprivileged_user(
    images: Mapping[str, Built], rootfs: Look, name: str, uid: int, account: str
) -> None:
    assert images[name].layout.config(images[name].image)["config"]["User"] == f"{uid}:{uid}"
    assert f"{account}:x:{uid}:{uid}:" in rootfs(name).read("/etc/passwd")


@BOTH
def test_nothing_in_an_image_raises_the_rights_of_who_runs_it(rootfs: Look, name: str) -> None:
    raising = [path for path, file in rootfs(name) if file.isfile() and file.mode & (stat.S_ISUID | stat.S_ISGID)]
    assert raising == []
    assert [path for path, file in rootfs(name) if "SCHILY.xattr.security.capability" in file.pax_headers] == []


@pytest.mark.parametrize(("name", "uid"), [(AGENT, 10001), (CONTROL, 10002)])
def test_what_an_image_runs_cannot_be_changed_by_its_user(rootfs: Look, name: str, uid: int) -> None:
    code = [(path, file) for path, file in rootfs(name) if path.startswith(("/app", "/opt", "/usr/bin"))]
    assert len(code) > 1000
    changeable = stat.S_IWOTH | stat.S_IWGRP
    assert [path for path, file in code if file.uid == uid or (file.mode & changeable and not file.issym())] == []


@BOTH
def test_no_compiler_and_no_installer_of_packages_is_in_an_image(rootfs: Look, name: str) -> None:
    tool = re.compile(r".*/bin/(cc|gcc.*|g\+\+.*|clang.*|make|ld|go|pip.*|uv|npm|node|git|curl|wget|nc|ssh)")
    assert [path for path in rootfs(name).paths() if tool.fullmatch(path)] == []
    assert not any("/site-packages/pip/" in path or path.startswith("/root/.cache") for path in rootfs(name).paths())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (AGENT, ["chromium", "tigervnc-standalone-server", "browser-use==0.13.14", "@novnc/novnc==1.7.0"]),
        (CONTROL, ["python3", "temporalio==1.35.0", "kubernetes==37.0.2", "@novnc/novnc==1.7.0"]),
    ],
)
def test_image_lists_every_package_that_it_was_made_of(rootfs: Look, name: str, parts: list[str]) -> None:
    listing = rootfs(name).read("/usr/share/berth/sbom.txt")
    assert [each for each in ("# Debian", "# Python", "# JavaScript", *parts) if each not in listing] == []
    lock = rootfs(name).read("/usr/share/berth/requirements.txt")
    python = listing.partition("# Python\n")[2].partition("#")[0].split()
    assert len(python) > 30
    assert [each for each in python if f"{each.replace('_', '-').lower()} " not in f"{lock.lower()} "] == []


@BOTH
def test_licences_travel_with_what_they_cover(rootfs: Look, name: str) -> None:
    assert "licensed under the MPL 2.0" in rootfs(name).read("/app/node_modules/@novnc/novnc/LICENSE.txt")
    assert "/usr/share/doc/bash/copyright" in rootfs(name).paths()


@BOTH
def test_image_tells_nothing_of_the_machine_that_built_it(images: Mapping[str, Built], rootfs: Look, name: str) -> None:
    built = images[name]
    told = json.dumps(built.layout.config(built.image))
    files = rootfs(name)
    # Builders leave some of them as the empty files that they mounted the machine's own over.
    private = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/pip.conf", "/etc/machine-id"}
    assert [path for path in private & files.paths() if files.read(path)] == []
    for path, file in files:
        if path.startswith("/etc/") and file.isfile() and file.size < MIB:
            told += files.read(path)
    assert [secret for secret in _own() if secret in told] == []
    assert [path for path in files.paths() if path.startswith("/run/secrets/")] == []


def _own() -> set[str]:
    """Addresses and paths of this machine that would be recognised."""
    found = {str(CHECKOUT)}
    if resolvers := Path("/etc/resolv.conf").read_text().split():
        found |= {word for word in resolvers if re.fullmatch(r"[\d.]+", word)}
    for variable in ("PIP_INDEX_URL", "UV_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        if host := urlsplit(os.environ.get(variable, "")).hostname:
            found.add(host)
    if (host := socket.gethostname()) and len(host) > 4:
        found.add(host)
    return found - {"127.0.0.1", "localhost"}


@pytest.mark.parametrize(("name", "bound"), [(AGENT, 1300), (CONTROL, 900)])
def test_image_is_no_larger_than_it_need_be(images: Mapping[str, Built], name: str, bound: int) -> None:
    assert images[name].bytes / MIB < bound


def test_agent_has_of_berth_only_what_agents_share(rootfs: Look) -> None:
    modules = {path for path in rootfs(AGENT).paths() if path.startswith("/app/core/") and path.endswith(".py")}
    beside = {path for path in modules if not path.startswith("/app/core/domain/")}
    assert beside == {"/app/core/__init__.py", "/app/core/ids.py", "/app/core/launch.py"}
    assert not any(path.startswith(("/app/api", "/app/k8s", "/app/temporal")) for path in rootfs(AGENT).paths())


def test_control_plane_has_every_part_and_finds_its_runtimes(rootfs: Look) -> None:
    paths = rootfs(CONTROL).paths()
    for part in ("api/cli/main.py", "api/web/dashboard/index.html", "core/db/migrations/env.py", "temporal/worker.py"):
        assert f"/app/{part}" in paths
    assert not any(path.startswith("/app/agent_image") for path in paths)
    entries = next(path for path in paths if re.fullmatch(r"/app/berth-[\d.]+\.dist-info/entry_points\.txt", path))
    assert "process = core.runtime.host.client:open_runtime" in rootfs(CONTROL).read(entries)


def test_building_again_gives_the_same_image(images: Mapping[str, Built]) -> None:
    """So what is loaded already need not be loaded again."""
    assert Workshop().build(AGENT).digest == images[AGENT].digest
