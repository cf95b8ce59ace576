"""Which numeric account each user's project runs under, so that one agent cannot touch another's files or processes."""

import hashlib
import json
import os
from pathlib import Path

import structlog

from core.errors import RuntimePermanent
from core.launch import Account
from core.runtime import crew, private

_log = structlog.get_logger()
_BLOCK = 10_000
_BLOCKS = 100_000


class Accounts:
    """Stable per user and project, never given twice, kept in `file`.

    Each data folder has a block of ids of its own, chosen by its path: an agent is ended by killing all that its
    account runs, so two supervisors of one machine must not share accounts.
    """

    def __init__(self, file: Path, first: int) -> None:
        self._file = file
        self._first = first
        self._given: dict[str, int] = {}
        self._block = -1
        self._next = 0
        self._load()

    def of(self, owner: str) -> Account | None:
        """The account of `owner` (a profile's name); None when we may not change accounts: then agents are as us."""
        if os.geteuid() != 0:
            return None
        uid = self._given.get(owner)
        if uid is None:
            uid = self._give(owner)
        return Account(uid=uid, gid=uid)

    def forget(self, owner: str) -> None:
        """The id is not used again; what it may have left on this machine stays nobody's."""
        if self._given.pop(owner, None) is not None:
            self._save()

    def _give(self, owner: str) -> int:
        if self._block < 0:
            self._block = self._choose_block()
        while True:
            if self._next >= _BLOCK:
                raise RuntimePermanent(f"all {_BLOCK} accounts of {self._file} are given away")
            uid = self._first + self._block * _BLOCK + self._next
            self._next += 1
            # Somebody else's container may have been given our block. What runs there is not ours to end.
            if not any(crew.of_account(uid)):
                break
        self._given[owner] = uid
        self._save()
        return uid

    def _choose_block(self) -> int:
        room = (_highest_uid() - self._first) // _BLOCK
        if room < 1:
            raise RuntimePermanent(f"user ids from {self._first} on are not mapped here; lower BERTH_HOST__UID_BASE")
        digest = hashlib.sha256(os.fsencode(self._file.absolute())).digest()
        return int.from_bytes(digest[:8], "big") % min(room, _BLOCKS)

    def _load(self) -> None:
        try:
            stored = json.loads(self._file.read_text())
            self._block, self._next, self._given = stored["block"], stored["next"], stored["given"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            # Profiles of forgotten accounts are handed to their new ones when they are next used.
            _log.error("accounts.unreadable", file=str(self._file))

    def _save(self) -> None:
        private.write(self._file, json.dumps({"block": self._block, "next": self._next, "given": self._given}))


def _highest_uid() -> int:
    """The highest user id that exists in this user namespace."""
    try:
        ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return 0xFFFF_FFFE
    return min(0xFFFF_FFFE, max(int(inside) + int(count) - 1 for inside, _, count in ranges))
