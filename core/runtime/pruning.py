"""Clears away the profiles of local agents that nobody has used for long."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from core.runtime.accounts import Accounts
from core.runtime.base import Owner, Pruned
from core.runtime.folders import Folders

_log = structlog.get_logger()
# A profile is some thousand files, which take up to a tenth of a second.
_MOST = 50


def prune(
    folders: Folders, accounts: Accounts, unused_for: timedelta, keep: Sequence[Owner], used: Iterable[str]
) -> Pruned:
    """`keep` and `used` (owners of profiles in use) stay. Without a pause: no agent may begin in between.

    So many at most, as nothing else of the host goes on meanwhile; the rest is left to the next time.
    """
    kept = {folders.owner(each.user_id, each.project_id) for each in keep}.union(used)
    removed = 0
    for owner in [*folders.unused_profiles((datetime.now(UTC) - unused_for).timestamp())]:
        if owner in kept:
            continue
        try:
            folders.forget_profile(owner)
        except OSError as error:
            _log.warning("profile.not_removed", owner=owner, error=str(error))
            continue
        accounts.forget(owner)
        removed += 1
        if removed == _MOST:
            break
    return Pruned(profiles=removed)
