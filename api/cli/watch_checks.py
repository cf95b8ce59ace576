"""Whether somebody watches the agents of a cluster, as the watch itself tells, or else its Lease."""

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2

from api.cli import rehearsal
from api.cli.verdicts import Check, For, Verdict

if TYPE_CHECKING:
    from core.settings import Settings

_RUNNING = For.RUNNING
_KUBERNETES = "kubernetes"
_SECONDS = 5.0
# As the alert BerthWatchOld has it.
_OLD_SECONDS = 120.0
_AGE = re.compile(r'^berth_watch_age_seconds\{runtime="kubernetes"\} (\S+)$', re.MULTILINE)
_MEND = "start one, or look at its log: berth watch"


async def examine(settings: "Settings") -> list[Check]:
    """One check, where a pool is of a cluster; runtimes of this machine are watched by their worker."""
    pools = [name for name, pool in settings.all_pools().items() if pool.runtime == _KUBERNETES]
    if not pools:
        return []
    what = f"watch of {', '.join(pools)}"
    age = await _age(settings)
    if age is not None:
        found = f"heard of its cluster {age:.0f} s ago"
        if age > _OLD_SECONDS:
            return [Check(_RUNNING, what, Verdict.PROBLEM, found, _MEND)]
        return [Check(_RUNNING, what, Verdict.OK, found)]
    if not rehearsal.is_given(settings):
        found = "not to be seen from here"
        return [Check(_RUNNING, what, Verdict.NOTE, found, "set KUBECONFIG, or BERTH_WATCH__METRICS_PORT")]
    return [await _lease(settings, what)]


async def _age(settings: "Settings") -> float | None:
    """What the watch tells; None where it does not, or only stands by."""
    if settings.watch.metrics_port is None:
        return None
    url = f"http://{settings.watch.metrics_host}:{settings.watch.metrics_port}/metrics"
    try:
        async with httpx2.AsyncClient(timeout=_SECONDS, trust_env=False) as http:
            found = _AGE.search((await http.get(url)).text)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        return None
    age = float(found[1]) if found else math.nan
    return None if math.isnan(age) else age


async def _lease(settings: "Settings", what: str) -> Check:
    from core.errors import RuntimeFault
    from k8s.client import Cluster
    from k8s.lease import held
    from k8s.names import watch_lease

    cluster, space = Cluster(settings.kubernetes), settings.kubernetes.namespace
    try:
        holding = await held(cluster, space, watch_lease(settings.kubernetes.installation))
    except RuntimeFault as error:
        return Check(_RUNNING, what, Verdict.PROBLEM, error.detail, "correct KUBECONFIG, or start the cluster")
    finally:
        await cluster.close()
    if holding is None:
        return Check(_RUNNING, what, Verdict.PROBLEM, "nobody watches", _MEND)
    age = (datetime.now(UTC) - holding.renewed_at).total_seconds()
    if age > 2 * holding.seconds:
        found = f"{holding.holder} has not said for {age:.0f} s that it watches"
        return Check(_RUNNING, what, Verdict.PROBLEM, found, _MEND)
    return Check(_RUNNING, what, Verdict.OK, f"{holding.holder} watches, {max(age, 0):.0f} s ago")
