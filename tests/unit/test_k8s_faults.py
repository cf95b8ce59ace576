"""What an API server's refusals become: try again, give up, or a word that says what to do."""

import json

import pytest

from core.errors import RuntimeFault, RuntimePermanent, RuntimeRetryable
from k8s.faults import AlreadyThere, NotThere, Refusal, TooOld, fault_of


def said(code: int, message: str, reason: str = "", **details: str) -> RuntimeFault:
    status = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return fault_of(Refusal.of(code, json.dumps(status).encode()), "making agent a")


def test_a_quota_of_the_cluster_is_named_and_tried_again() -> None:
    fault = said(
        403,
        'pods "agent-a-1" is forbidden: exceeded quota: agents, requested: limits.cpu=1,pods=1, used: limits.cpu=4,'
        "pods=4, limited: limits.cpu=4,pods=4",
        "Forbidden",
    )
    assert isinstance(fault, RuntimeRetryable)
    assert fault.error_code == "cluster_quota_exceeded"
    assert fault.detail == "making agent a: the cluster's quota agents is used up (it allows limits.cpu=4,pods=4)"


def test_a_missing_right_names_the_verb_and_is_tried_again() -> None:
    fault = said(
        403,
        'pods is forbidden: User "system:serviceaccount:berth:worker" cannot create resource "pods" in API group "" in '
        'the namespace "berth-agents"',
        "Forbidden",
    )
    assert isinstance(fault, RuntimeRetryable)
    assert fault.error_code == "cluster_rights_missing"
    assert "system:serviceaccount:berth:worker may not create pods" in fault.detail


@pytest.mark.parametrize(
    "message",
    [
        'pods "a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        'pods "a" is forbidden: no PriorityClass with name high was found',
        'pods "a" is forbidden: maximum cpu usage per Container is 1, but limit is 2',
    ],
)
def test_a_rule_of_the_cluster_that_forbids_the_pod_is_permanent(message: str) -> None:
    fault = said(403, message, "Forbidden")
    assert isinstance(fault, RuntimePermanent)
    assert message in fault.detail


def test_a_namespace_that_is_just_being_made_ready_is_tried_again() -> None:
    message = 'pods "a" is forbidden: error looking up service account x/default: serviceaccount "default" not found'
    assert isinstance(said(403, message, "Forbidden"), RuntimeRetryable)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", RuntimePermanent),
        (401, "Unauthorized", RuntimeRetryable),
        (404, "NotFound", NotThere),
        (409, "AlreadyExists", AlreadyThere),
        (409, "Conflict", RuntimeRetryable),
        (410, "Expired", TooOld),
        (422, "Invalid", RuntimePermanent),
        (429, "TooManyRequests", RuntimeRetryable),
        (500, "InternalError", RuntimeRetryable),
        (503, "ServiceUnavailable", RuntimeRetryable),
        (504, "Timeout", RuntimeRetryable),
    ],
)
def test_each_answer_is_either_tried_again_or_given_up(code: int, reason: str, kind: type[RuntimeFault]) -> None:
    fault = said(code, "why it is so", reason)
    assert type(fault) is kind


def test_a_namespace_that_is_missing_is_named() -> None:
    fault = said(404, 'namespaces "berth-agents" not found', "NotFound", name="berth-agents", kind="namespaces")
    assert fault.detail == "making agent a: the cluster has no namespace 'berth-agents'"


def test_an_answer_that_is_no_status_is_still_a_sentence() -> None:
    fault = fault_of(Refusal.of(502, b"<html>bad gateway</html>"), "listing agents")
    assert isinstance(fault, RuntimeRetryable)
    assert "502" in fault.detail
