"""Lets integration tests run where root may not make mount namespaces, as in most containers."""

import os
from pathlib import Path

import pytest

from tests import capabilities


@pytest.fixture(autouse=True)
def _open_folders(request: pytest.FixtureRequest) -> None:
    """pytest closes its folders to other accounts. Parts that run as one reach in by a mount namespace, or else not."""
    if os.geteuid() == 0 and "tmp_path" in request.fixturenames and capabilities.missing("mount_namespace"):
        folder: Path = request.getfixturevalue("tmp_path")
        for each in (folder, folder.parent, folder.parent.parent):
            each.chmod(0o711)
