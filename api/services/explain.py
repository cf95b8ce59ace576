"""explain-start: the decision in the caller's words, and what would change it."""

from datetime import datetime

from api.auth import Identity
from api.deps import Deps
from api.schemas.agents import StartBody, WaitRange, agent_body
from api.schemas.explain import CheckBody, ExplainBody, HelpBody, PlaceBody
from api.services import schedule
from api.services.start import placement
from core.db.repositories import explanations, projects, queue, scheduled
from core.db.repositories.explanations import Explanation, Place
from core.domain.admission import Create, Queue, Reject, RejectReason
from core.domain.schedule import MOST_PENDING, ScheduleReason
from core.domain.tiers import Tier, TierLimits

_STOPPABLE_SHOWN = 5


async def explain(deps: Deps, who: Identity, project_id: str, body: StartBody) -> ExplainBody:
    """Raises `NotFound`, `InvalidRequest` (`unknown_template`, `start_at_too_far`)."""
    settings = deps.settings
    rules = settings.rules()
    async with deps.acting(who) as (session, user):
        await projects.require_member(session, project_id, who.user_id)
        template, pool = placement(settings, body.template)
        later = schedule.later(body.start_at, deps.clock())
        if later is not None:
            return _scheduled(later, await scheduled.pending_of(session, who.user_id))
        found = await explanations.explain(
            session, who.user_id, project_id, pool, settings.all_pools()[pool], rules, deps.clock(), template
        )
        agent = found.existing and await queue.with_wait(session, found.existing, rules)
    checks = [CheckBody(check=each.check, passed=each.passed, numbers=each.numbers) for each in found.examined]
    if agent is not None:
        return ExplainBody(status="existing", reason=agent.reason, checks=checks, helps=[], agent=agent_body(agent))
    helps = _helps(found, user.tier, settings.tiers)
    match found.decision:
        case Create():
            return ExplainBody(status="created", checks=checks, helps=[])
        case Queue(reason=waits):
            place = found.place and _place(found.place)
            return ExplainBody(status="queued", reason=waits.value, checks=checks, place=place, helps=helps)
        case Reject(reason=refused):
            return ExplainBody(status="rejected", reason=refused.value, checks=checks, helps=helps)


def _scheduled(later: datetime, pending: int) -> ExplainBody:
    if pending < MOST_PENDING:
        return ExplainBody(status="scheduled", checks=[], helps=[], start_at=later)
    helps = [HelpBody(action="cancel_a_scheduled_start")]
    return ExplainBody(status="rejected", reason=ScheduleReason.TOO_MANY.value, checks=[], helps=helps)


def _helps(found: Explanation, tier: Tier, limits: TierLimits) -> list[HelpBody]:
    match found.decision:
        case Create():
            return []
        case Reject(reason=reason):
            return _helps_against(reason, found, tier, limits)
        case Queue():
            wait = [HelpBody(action="wait")]
            if found.better is None:
                return wait
            better, place = found.better
            return [*wait, HelpBody(action="upgrade_subscription", tier=better, place=_place(place))]


def _helps_against(reason: RejectReason, found: Explanation, tier: Tier, limits: TierLimits) -> list[HelpBody]:
    match reason:
        case RejectReason.SUBSCRIPTION:
            return [HelpBody(action="renew_subscription")]
        case RejectReason.MAX_AGENTS:
            more = next((each for each in Tier if limits.of(each) > max(limits.of(tier), len(found.others))), None)
            upgrade = [HelpBody(action="upgrade_subscription", tier=more)] if more is not None else []
            stops = [
                HelpBody(action="stop_agent", agent_id=other.agent_id, project_id=other.project_id)
                for other in found.others[:_STOPPABLE_SHOWN]
            ]
            return [*stops, *upgrade]
        case RejectReason.TOO_LARGE:
            return [HelpBody(action="choose_smaller_template")]
        case (
            RejectReason.MAX_PROJECT_AGENTS
            | RejectReason.QUEUE_FULL
            | RejectReason.UNKNOWN_TEMPLATE
            | RejectReason.UNKNOWN_POOL
        ):
            return [HelpBody(action="retry_later")]


def _place(place: Place) -> PlaceBody:
    return PlaceBody(
        position=place.position,
        estimated_wait_minutes=place.wait.minutes,
        estimated_wait=WaitRange(low=place.wait.low, high=place.wait.high),
        ahead=place.ahead,
    )
