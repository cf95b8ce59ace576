"""Scratch folders of local agents, where the data folder's own path is too long for them."""

import tempfile
from pathlib import Path

import pytest

from core.runtime.folders import Folders


def host(tmp_path: Path, name: str) -> Folders:
    folders = Folders(tmp_path / f"{name}-with-a-path-that-is-too-long-for-the-sockets" / "host")
    folders.make()
    return folders


def test_next_host_clears_its_own_scratch_folders_and_no_other_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours, theirs = host(tmp_path, "ours"), host(tmp_path, "theirs")
    left, used = ours.work("one", None), theirs.work("two", None)
    assert left.parent == used.parent == tmp_path
    (left / "tmp" / "scrap").write_text("x")
    ours.clear_works()
    assert not left.exists()
    assert (used / "tmp").is_dir()


def test_link_that_poses_as_a_scratch_folder_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours, precious = host(tmp_path, "ours"), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    left = ours.work("one", None)
    posing = left.with_name(f"{left.name}-posing")
    posing.symlink_to(precious)
    ours.clear_works()
    assert not left.exists()
    assert (precious / "file").exists()
