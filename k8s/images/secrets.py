"""What a build on this machine must know to fetch packages, given so that no image remembers it."""

import configparser
import io
import os
from collections.abc import Mapping
from pathlib import Path

_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_INSIDE = "/run/secrets/ca.crt"
# Their names as pip's own configuration file spells them.
_OPTIONS = {
    "PIP_INDEX_URL": "index-url",
    "PIP_EXTRA_INDEX_URL": "extra-index-url",
    "PIP_TRUSTED_HOST": "trusted-host",
    "PIP_PROXY": "proxy",
    "PIP_DEFAULT_TIMEOUT": "timeout",
}


def write(folder: Path, environ: Mapping[str, str]) -> dict[str, Path]:
    """Write this machine's secrets for a build into `folder`: id and file.

    `ca` holds the authorities that this machine trusts, a proxy's own among them; `pip` is a configuration that uses
    them, and the package index that pip was told about.
    """
    authorities = next((path for path in _certificates(environ) if path.is_file()), None)
    options = {key: environ[name] for name, key in _OPTIONS.items() if environ.get(name)}
    files: dict[str, Path] = {}
    if authorities is not None:
        options["cert"] = _INSIDE
        files["ca"] = _private(folder / "ca.crt", authorities.read_bytes())
    if options:
        files["pip"] = _private(folder / "pip.conf", _configuration(_host_options() | options))
    return files


def _certificates(environ: Mapping[str, str]) -> list[Path]:
    asked = [environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    return [*(Path(path) for path in asked if path), _AUTHORITIES]


def _host_options() -> dict[str, str]:
    """The index that this machine's pip is configured with, if it is."""
    parser = configparser.RawConfigParser()
    parser.read([Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    if not parser.has_section("global"):
        return {}
    return {key: value for key, value in parser.items("global") if key in _OPTIONS.values()}


def _configuration(options: Mapping[str, str]) -> bytes:
    parser = configparser.RawConfigParser()
    parser["global"] = dict(options)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue().encode()


def _private(path: Path, content: bytes) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path
