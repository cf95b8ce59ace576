"""Where the host supervisor listens: a unix socket that only its own user can open."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

# The kernel takes 107 bytes; a longer path becomes a link to a socket in a short private folder.
_MAX_PATH = 100


def host_folder(data_dir: Path) -> Path:
    return data_dir / "host"


def socket_path(data_dir: Path) -> Path:
    """The path to connect to now. Ask again for every connection: a restarted host may have another one."""
    path = host_folder(data_dir) / "host.sock"
    return path.readlink() if path.is_symlink() else path


def listen(data_dir: Path) -> socket.socket:
    """Listen at `socket_path`. The caller holds the host's lock, so what is there already is a dead host's."""
    path = host_folder(data_dir) / "host.sock"
    withdraw(data_dir)
    place = path
    if len(os.fsencode(path)) > _MAX_PATH:
        place = Path(tempfile.mkdtemp(prefix="berth-host-")) / "host.sock"
        path.symlink_to(place)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(place))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def withdraw(data_dir: Path) -> None:
    """Remove the socket; nobody can connect any more."""
    path = host_folder(data_dir) / "host.sock"
    if path.is_symlink():
        folder = path.readlink().parent
        if folder.name.startswith("berth-host-"):
            shutil.rmtree(folder, ignore_errors=True)
    path.unlink(missing_ok=True)
