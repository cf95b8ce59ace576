"""Says every few seconds that this API process is up, so that an agent's silence is told from our own."""

import asyncio

import structlog

from api.live.ports import DATABASE_AWAY
from core.db.engine import Db
from core.db.repositories import replicas

log = structlog.get_logger()

BEAT_SECONDS = 5.0


async def stay_present(db: Db, replica: str) -> None:
    """Runs until cancelled; then the process is off the list at once, if the database can be told."""
    try:
        while True:
            try:
                async with db.transaction() as session:
                    await replicas.beat(session, replica)
            except DATABASE_AWAY as error:
                log.warning("replica.not_seen", error=type(error).__name__)
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        try:
            async with asyncio.timeout(2), db.transaction() as session:
                await replicas.leave(session, replica)
        except DATABASE_AWAY as error:
            log.warning("replica.not_removed", error=type(error).__name__)
