"""What a build learns of this machine: enough to fetch packages, closed to others, and only as secrets."""

from pathlib import Path

import pytest

from k8s.images import secrets


@pytest.fixture
def authorities(tmp_path: Path) -> Path:
    path = tmp_path / "authorities.crt"
    path.write_text("-----BEGIN CERTIFICATE-----")
    return path


def test_build_uses_the_index_and_the_authorities_that_pip_was_told_about(tmp_path: Path, authorities: Path) -> None:
    environ = {"PIP_INDEX_URL": "https://user:word@packages.test/simple%20x", "PIP_CERT": str(authorities)}
    given = secrets.write(tmp_path, environ)
    assert given["ca"].read_text() == authorities.read_text()
    lines = given["pip"].read_text().splitlines()
    assert "index-url = https://user:word@packages.test/simple%20x" in lines
    assert "cert = /run/secrets/ca.crt" in lines


def test_secrets_of_a_build_are_readable_by_their_owner_only(tmp_path: Path, authorities: Path) -> None:
    for path in secrets.write(tmp_path, {"PIP_CERT": str(authorities)}).values():
        assert path.stat().st_mode & 0o777 == 0o600
