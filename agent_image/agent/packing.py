"""The zip of saved work: an open task, and the files of a few folders, newest first, as many as fit.

The folders are written to by the browser, so by whatever page took hold of it: nothing but regular files is read, and
no link is followed on the way to one. Stored, not compressed: what fits is known, and a stopping agent has no time.
"""

import json
import os
import re
import stat
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

DOWNLOADS, FILES = "downloads", "files"
_MOST_FILES = 2000
_MOST_FOLDERS = 4
_MOST_LOOKS = 20_000
_BLOCK = 1 << 20
# What a file costs besides its bytes: two headers with its name, and its line of the manifest.
_PER_FILE = 4096
# A zip knows the years from 1980 to 2107.
_EARLIEST, _LATEST = 315_619_200, 4_354_732_800
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\]")
# How Chromium names a download that it has not finished.
UNFINISHED = ".crdownload"


class LeftOut(StrEnum):
    """Why a file is not in the zip."""

    TOO_LARGE = "too_large"  # with what is newer it would be more than an artefact may have
    TOO_MANY = "too_many"
    TOO_DEEP = "too_deep"
    OUT_OF_TIME = "out_of_time"
    UNREADABLE = "unreadable"
    UNFINISHED = "unfinished"
    NOT_A_FILE = "not_a_file"


# Nobody's work is lost with these.
_NO_WORK = frozenset({LeftOut.UNFINISHED, LeftOut.NOT_A_FILE})


@dataclass(frozen=True)
class Found:
    """A regular file, by its way down from the work folder."""

    way: tuple[str, ...]
    size: int
    changed: float


@dataclass
class Packed:
    """What is in the zip, and what is not: lines of the manifest."""

    files: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    more: bool = False

    def leave(self, way: Sequence[str], size: int | None, why: LeftOut) -> None:
        self.left_out.append({"name": _name(way), "bytes": size, "why": why.value})

    @property
    def worth_it(self) -> bool:
        """Whether there was anything to be saved."""
        return bool(self.files) or any(line["why"] not in _NO_WORK for line in self.left_out)


def pack(
    work: Path, into: IO[bytes], limit: int, until: float, task: dict[str, Any] | None, about: dict[str, Any]
) -> Packed | None:
    """Fill `into`, with at most `limit` bytes, until the time `until` (`time.monotonic`); None: there was nothing.

    `about` is what the manifest says besides. Raises `OSError` when `into` cannot be written.
    """
    packed = Packed()
    look = _Look(work, packed)
    look.into((DOWNLOADS,))
    look.into((FILES,))
    found = sorted(look.found, key=lambda file: file.changed, reverse=True)
    if task is None and not found and not packed.worth_it:
        return None
    lines = len(found) + len(packed.left_out) + 2
    room = limit - lines * _PER_FILE
    with zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as archive:
        if task is not None:
            text = _json(task)
            archive.writestr(_entry("task.json", time.time()), text)
            room -= len(text)
        for file in found:
            room -= _take(archive, work, file, room, until, packed)
        manifest = {
            **about,
            "task": "task.json" if task is not None else None,
            "files": packed.files,
            "leftOut": packed.left_out,
            "moreLeftOut": packed.more,
        }
        archive.writestr(_entry("manifest.json", time.time()), _json(manifest))
    return packed if task is not None or packed.worth_it else None


def _take(archive: zipfile.ZipFile, work: Path, file: Found, room: int, until: float, packed: Packed) -> int:
    """Put one file in; the bytes that it took."""
    why = None
    if time.monotonic() >= until:
        why = LeftOut.OUT_OF_TIME
    elif len(packed.files) >= _MOST_FILES:
        why = LeftOut.TOO_MANY
    elif file.size > room:
        why = LeftOut.TOO_LARGE
    if why is not None:
        packed.leave(file.way, file.size, why)
        return 0
    try:
        source = os.fdopen(_open(work, file.way), "rb")
    except OSError:
        packed.leave(file.way, file.size, LeftOut.UNREADABLE)
        return 0
    name = _unused(archive, _name(file.way))
    size = 0
    with source, archive.open(_entry(name, file.changed), "w") as target:
        # No more than it had when it was looked at: one that grows must not have the room of others.
        while size < file.size and (block := _read(source, min(_BLOCK, file.size - size))):
            target.write(block)
            size += len(block)
    packed.files.append({"name": name, "bytes": size, "changedAt": _moment(file.changed)})
    if size < file.size:
        packed.leave(file.way, file.size - size, LeftOut.UNREADABLE)
    return size


def _read(source: IO[bytes], size: int) -> bytes:
    try:
        return source.read(size)
    except OSError:
        return b""


class _Look:
    """Everything below some folders, up to a bound: `found` are regular files, the rest is left out already."""

    def __init__(self, work: Path, packed: Packed) -> None:
        self._work, self._packed = work, packed
        self._looks = 0
        self.found: list[Found] = []

    def into(self, way: tuple[str, ...]) -> None:
        try:
            folder = _open(self._work, way, folder=True)
        except FileNotFoundError:
            return
        except OSError:
            self._packed.leave(way, None, LeftOut.NOT_A_FILE)
            return
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._looks += 1
                    if self._looks > _MOST_LOOKS or len(self.found) + len(self._packed.left_out) >= 2 * _MOST_FILES:
                        self._packed.more = True
                        return
                    self._at((*way, entry.name), entry)
        finally:
            os.close(folder)

    def _at(self, way: tuple[str, ...], entry: "os.DirEntry[str]") -> None:
        try:
            about = entry.stat(follow_symlinks=False)
        except OSError:
            return  # gone meanwhile
        if stat.S_ISDIR(about.st_mode):
            if len(way) > _MOST_FOLDERS:
                self._packed.leave(way, None, LeftOut.TOO_DEEP)
            else:
                self.into(way)
        elif not stat.S_ISREG(about.st_mode):
            self._packed.leave(way, None, LeftOut.NOT_A_FILE)
        elif way[0] == DOWNLOADS and way[-1].endswith(UNFINISHED):
            self._packed.leave(way, about.st_size, LeftOut.UNFINISHED)
        elif about.st_size:  # browser-use begins with empty files, and Chromium takes the name of a download with one
            self.found.append(Found(way, about.st_size, about.st_mtime))


def _open(work: Path, way: Sequence[str], *, folder: bool = False) -> int:
    """Open a regular file (or a folder) below `work` step by step; raises `OSError` for a link anywhere on the way."""
    step = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    here = os.open(work, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    for number, name in enumerate(way, 1):
        last = number == len(way) and not folder
        try:
            # A pipe that is there by now must not keep us waiting for its other end.
            below = os.open(name, step | (os.O_NONBLOCK if last else os.O_DIRECTORY), dir_fd=here)
        finally:
            os.close(here)
        here = below
    if not folder and not stat.S_ISREG(os.fstat(here).st_mode):
        os.close(here)
        raise OSError("not a regular file")
    return here


def _name(way: Sequence[str]) -> str:
    """The way as a zip may have it: UTF-8, and nothing that some unpacker takes for a way out of its folder."""
    parts = (os.fsencode(part).decode("utf-8", "replace") for part in way)
    return "/".join(_UNFIT.sub("_", part) for part in parts)


def _unused(archive: zipfile.ZipFile, name: str) -> str:
    return name if name not in archive.NameToInfo else f"{name}~{len(archive.filelist)}"


def _entry(name: str, changed: float) -> zipfile.ZipInfo:
    at = time.gmtime(min(max(changed, _EARLIEST), _LATEST))
    entry = zipfile.ZipInfo(name, at[:6])
    entry.external_attr = (stat.S_IFREG | 0o600) << 16
    return entry


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(min(max(seconds, 0), _LATEST), UTC).isoformat(timespec="seconds")


def _json(value: Any) -> bytes:
    # Text of a page may hold halves of characters.
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "replace")
