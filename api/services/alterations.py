"""What administrators change of an agent that runs: its size, and the machine it is on."""

from api.auth import Identity
from api.deps import Deps
from api.schemas.admin import ResizeBody
from api.services.admin import anyones
from api.services.orders import wrong_state
from core.db.repositories import alterations
from core.db.repositories.agents import AgentView
from core.domain import sizes
from core.domain.lifecycle import AgentState
from core.domain.orders import OrderAnswer, Verdict
from core.domain.sizes import Size
from core.errors import Conflict, InvalidRequest, Unavailable


async def resize(deps: Deps, who: Identity, agent_id: str, body: ResizeBody) -> AgentView:
    """Order other limits and return the agent as it is then.

    Raises `InvalidRequest` (`size_out_of_range`) for limits below its requests or beyond what its template or the
    largest machine has, and as `_settle` does.
    """
    view = await _running(deps, who, agent_id)
    size = await _wanted(deps, who, view, body)
    await _settle(view, await deps.lives.resize(view, size))
    return await anyones(deps, who, agent_id)


async def migrate(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Order a move to another machine and return the agent as it is then. Raises as `_settle` does."""
    view = await _running(deps, who, agent_id)
    await _settle(view, await deps.lives.migrate(view))
    return await anyones(deps, who, agent_id)


async def _running(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    view = await anyones(deps, who, agent_id)
    if view.state is not AgentState.RUNNING:
        raise wrong_state(view, "only one that runs can be changed")
    return view


async def _wanted(deps: Deps, who: Identity, view: AgentView, body: ResizeBody) -> Size:
    try:
        resources = deps.settings.template(view.template).resources
    except KeyError:
        raise Conflict(f"the settings know its template {view.template} no more", code="order_refused") from None
    async with deps.acting(who) as (session, _):
        now = await alterations.size(session, view.agent_id) or sizes.size_of(resources)
    cpu = now.cpu if body.cpu is None else sizes.cores(body.cpu)
    memory = now.memory_mib if body.memory is None else sizes.mebibytes(body.memory)
    if cpu <= 0 or memory <= 0:
        raise _out_of_range("an agent needs a part of a core and some memory")
    if cpu > sizes.MOST_CORES or memory > sizes.MOST_MIB:
        raise _out_of_range("no machine is that large")
    wanted = Size(cpu=cpu, memory_mib=memory)
    why = sizes.why_not(wanted, resources)
    if why is not None:
        raise _out_of_range(why)
    return wanted


async def _settle(view: AgentView, answer: OrderAnswer) -> None:
    """Raises `Conflict` when the agent's state or its runtime refuses, `Unavailable` when nobody could be asked."""
    match answer.verdict:
        case Verdict.DONE | Verdict.PENDING:
            return
        case Verdict.WRONG_STATE:
            raise wrong_state(view.model_copy(update={"state": answer.state}), "only one that runs can be changed")
        case Verdict.TOO_LARGE:
            raise _out_of_range(answer.detail)
        case Verdict.REFUSED:
            raise Conflict(answer.detail, code="order_refused", state=answer.state.value)
        case Verdict.UNAVAILABLE:
            raise Unavailable(answer.detail or "its runtime does not answer", code="runtime_unavailable")


def _out_of_range(why: str) -> InvalidRequest:
    return InvalidRequest(why, code="size_out_of_range")
