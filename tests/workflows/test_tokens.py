"""An agent's own token: the row keeps the hash of the one that is in force."""

import pytest

from core.errors import RuntimeRetryable
from core.runtime.base import AgentSpec, Created
from core.tokens import hash_token
from tests.fixtures.stage import Stage


async def token_of(stage: Stage, agent_id: str) -> str:
    (row,) = await stage.sql("SELECT token_hash FROM agents WHERE agent_id = :a", a=agent_id)
    return str(row["token_hash"])


@pytest.mark.parametrize("made", [True, False], ids=["answer lost", "nothing made"])
async def test_token_that_is_let_in_stays_so_until_another_is_known_to_be_in_force(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    create = stage.runtime.create
    tokens: list[str] = []
    known: list[str] = []

    async def at_the_second_try(spec: AgentSpec) -> Created:
        tokens.append(hash_token(spec.token.get_secret_value()))
        known.append(await token_of(stage, spec.agent_id))
        if len(tokens) == 1:
            if made:
                await create(spec)
            raise RuntimeRetryable("the connection broke")
        return await create(spec)

    monkeypatch.setattr(stage.runtime, "create", at_the_second_try)
    agent_id = await stage.started()
    first, second = tokens
    assert known == [first, first]
    assert await token_of(stage, agent_id) == (first if made else second)
