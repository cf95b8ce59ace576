"""Artefacts: what agents made or saved, their bytes in chunks, so that any replica serves them."""

from collections.abc import Collection, Iterator
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, delete, func, insert, select, union_all
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import ArtefactChunk, ArtefactRow
from core.db.portions import portion
from core.db.repositories.agents import AgentView
from core.domain.wire import Artefact, SavedWork, saved_work_id
from core.ids import new_uuid7

CHUNK_BYTES = 1 << 20
_GONE_AT_ONCE = 500


class ArtefactView(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)
    artefact_id: str
    agent_id: str
    command_id: str
    user_id: str
    content_type: str
    bytes: int
    created_at: datetime

    def told(self) -> Artefact:
        """As users and agents are told of it."""
        return Artefact(
            artefact_id=self.artefact_id,
            content_type=self.content_type,
            bytes=self.bytes,
            url=f"/api/artefacts/{self.artefact_id}",
        )


# The reserved ids of all attempts.
_SAVED = saved_work_id(0).removesuffix("0")
_IS_SAVED = ArtefactRow.command_id.startswith(_SAVED, autoescape=True)
# By the number of the attempt: of two numbers the longer one is the greater.
_LAST_ATTEMPT_FIRST = (func.length(ArtefactRow.command_id).desc(), ArtefactRow.command_id.collate("C").desc())
# A user may order as many restarts as there is time for, each of which may save 50 MiB.
SAVES_KEPT = 5


async def saved_work(session: AsyncSession, agent_id: str) -> list[SavedWork]:
    """What is there of the work that the agent's attempts saved, the newest attempt first."""
    return (await saved_works(session, [agent_id])).get(agent_id, [])


async def saved_works(session: AsyncSession, agent_ids: Collection[str]) -> dict[str, list[SavedWork]]:
    """The same of many agents, by their ids; who saved nothing is left out."""
    query = select(ArtefactRow).where(ArtefactRow.agent_id.in_(agent_ids), _IS_SAVED).order_by(*_LAST_ATTEMPT_FIRST)
    found: dict[str, list[SavedWork]] = {}
    for row in await session.scalars(query):
        attempt = int(row.command_id.removeprefix(_SAVED))
        told = ArtefactView.model_validate(row).told()
        found.setdefault(row.agent_id, []).append(SavedWork(attempt=attempt, **told.model_dump()))
    return found


async def of_command(session: AsyncSession, agent_id: str, command_id: str) -> ArtefactView | None:
    query = select(ArtefactRow).where(ArtefactRow.agent_id == agent_id, ArtefactRow.command_id == command_id)
    row = await session.scalar(query)
    return None if row is None else ArtefactView.model_validate(row)


async def get(session: AsyncSession, artefact_id: str, user_id: str) -> ArtefactView | None:
    """The user's own artefact of that id."""
    query = select(ArtefactRow).where(ArtefactRow.artefact_id == artefact_id, ArtefactRow.user_id == user_id)
    row = await session.scalar(query)
    return None if row is None else ArtefactView.model_validate(row)


async def add(
    session: AsyncSession, who: AgentView, command_id: str, content_type: str, size: int, chunks: Iterator[bytes]
) -> ArtefactView:
    """Store the artefact of a command; when there is one already, that one stays and is returned."""
    statement = (
        postgresql.insert(ArtefactRow)
        .values(
            artefact_id=f"art-{new_uuid7().hex}",
            agent_id=who.agent_id,
            command_id=command_id,
            user_id=who.user_id,
            content_type=content_type,
            bytes=size,
        )
        .on_conflict_do_nothing(index_elements=[ArtefactRow.agent_id, ArtefactRow.command_id])
        .returning(ArtefactRow)
    )
    row = (await session.execute(statement)).scalar_one_or_none()
    if row is None:
        known = await of_command(session, who.agent_id, command_id)
        if known is None:
            raise LookupError("an artefact vanished while it was stored")
        return known
    for number, data in enumerate(chunks):
        values = {"artefact_id": row.artefact_id, "number": number, "data": data}
        await session.execute(insert(ArtefactChunk).values(values))
    return ArtefactView.model_validate(row)


async def keep_newest(session: AsyncSession, agent_id: str, most_bytes: int) -> None:
    """Remove an agent's oldest pictures and documents until the others have at most so many bytes, and what it saved
    but for the last five attempts that did.

    What is far beyond that, as when the limit was lowered, goes in parts: one with each artefact that is stored.
    """
    newest_first = (ArtefactRow.created_at.desc(), ArtefactRow.artefact_id.desc())
    through = func.sum(ArtefactRow.bytes).over(order_by=newest_first).label("through")
    place = func.row_number().over(order_by=_LAST_ATTEMPT_FIRST).label("place")
    its_own = select(ArtefactRow.artefact_id).where(ArtefactRow.agent_id == agent_id)
    made = its_own.add_columns(through).where(~_IS_SAVED).subquery()
    saved = its_own.add_columns(place).where(_IS_SAVED).subquery()
    over = union_all(
        select(made.c.artefact_id).where(made.c.through > most_bytes),
        select(saved.c.artefact_id).where(saved.c.place > SAVES_KEPT),
    )
    oldest_first = (ArtefactRow.created_at, ArtefactRow.artefact_id)
    await remove(session, select(ArtefactRow).where(ArtefactRow.artefact_id.in_(over)).order_by(*oldest_first))


async def remove(session: AsyncSession, due: Select[ArtefactRow]) -> int:
    """Delete of the artefacts that are `due`, in that order, about as many as have 64 MiB; return how many went.

    Those that somebody else deletes just now are left to them.
    """
    query = due.with_only_columns(ArtefactRow.artefact_id, ArtefactRow.bytes)
    taken = query.limit(_GONE_AT_ONCE).with_for_update(of=ArtefactRow, skip_locked=True)
    gone = portion((artefact_id, size) for artefact_id, size in (await session.execute(taken)).all())
    if gone:
        # Chunks go with their artefact.
        await session.execute(delete(ArtefactRow).where(ArtefactRow.artefact_id.in_(gone)))
    return len(gone)


async def chunk(session: AsyncSession, artefact_id: str, number: int) -> bytes | None:
    """The chunk of that number, from 0; None past the last."""
    query = select(ArtefactChunk.data).where(ArtefactChunk.artefact_id == artefact_id, ArtefactChunk.number == number)
    return await session.scalar(query)
