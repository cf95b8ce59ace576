"""The OpenAPI document says all there is to say, and the API keeps to it under whatever is thrown at it."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.auth import Role, open_verifier
from api.deps import Deps
from core.db.engine import Db
from core.domain.admission import RejectReason
from core.domain.wire import CommandFault
from core.settings import Settings
from tests.fixtures.api import Api
from tests.fixtures.live import serve

_EXAMPLES = 6
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    parts = Deps(settings=settings, db=Db.__new__(Db), lives=None, verifier=open_verifier(settings.auth))  # type: ignore[arg-type]  # nothing is asked of them
    return create_app(settings, parts).openapi()


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_says_what_it_is_for_and_who_may_ask(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in _operations(document):
        assert operation["summary"], name
        assert set(operation["tags"]) <= tags, name
        assert operation.get("security") or operation["tags"] == ["service"], name
    ids = [operation["operationId"] for _, operation in _operations(document)]
    assert len(ids) == len(set(ids))
    assert all("_" not in each for each in ids), ids


def test_every_operation_with_a_token_lists_its_refusals_with_examples(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        answers = operation["responses"]
        if operation["tags"] != ["service"]:
            assert {"401", "404", "413", "422", "503"} <= set(answers), name
        for status, answer in answers.items():
            if int(status) < 400:
                continue
            content = answer["content"]
            assert set(content) == {"application/problem+json"}, (name, status)
            examples = content["application/problem+json"]["examples"]
            assert examples, (name, status)
            for code, example in examples.items():
                assert example["value"]["code"] == code
                assert example["value"]["status"] == int(status)


@pytest.mark.parametrize(
    ("operation_id", "codes"),
    [("startAgent", set(RejectReason)), ("restartAgent", set(RejectReason)), ("execute", set(CommandFault))],
    ids=["startAgent", "restartAgent", "execute"],
)
def test_every_reason_to_refuse_a_start_or_to_give_no_result_is_listed(
    document: dict[str, Any], operation_id: str, codes: set[str]
) -> None:
    (operation,) = (each for _, each in _operations(document) if each["operationId"] == operation_id)
    answers = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
    listed = {
        (code, status)
        for status, answer in answers.items()
        for code in answer["content"]["application/problem+json"]["examples"]
    }
    assert codes <= {code for code, _ in listed}
    if operation_id != "execute":
        refusals = {(str(code), "503" if code is RejectReason.QUEUE_FULL else "403") for code in codes}
        assert refusals <= listed


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    assert "HTTPValidationError" not in schemas


# These stay open, or wait for an agent that is not there.
_SLOW = {"execute", "agentLogs"}


# Hypothesis draws in a thread while the server runs in this one. Whatever the server takes from `random` meanwhile
# looks to Hypothesis as if the strategies had taken it, and it warns of that now and then.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(300)
async def test_generated_requests_find_no_fault_of_ours(api: Api) -> None:
    """Schemathesis as an administrator who owns a running agent: every operation, sound and unsound input."""
    agent_id = await api.running()
    headers = api.bearer("owner", Role.ADMIN)
    schema = schemathesis.openapi.from_dict(api.app.openapi())
    async with serve(api.app) as url:
        tried = await asyncio.to_thread(_throw_at, schema, url, headers, agent_id)
    assert tried > 200


def _throw_at(schema: Any, url: str, headers: dict[str, str], agent_id: str) -> int:
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis_settings(
                max_examples=_EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def check(case: Any) -> None:
                nonlocal tried
                tried += 1
                own = tried % 2 and case.operation.definition.raw["operationId"] not in _SLOW
                if own and "agentId" in (case.path_parameters or {}):
                    case.path_parameters["agentId"] = agent_id
                answer = case.call(base_url=url, headers=headers, timeout=20)
                case.validate_response(answer, checks=_CHECKS)

            # An operation without parameters has no unsound input.
            with suppress(Unsatisfiable):
                check()
    return tried
