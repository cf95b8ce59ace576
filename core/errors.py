"""The tree of everything Berth refuses or fails with; each leaf knows its code, HTTP status and whether to try again.

BerthError
├── Refused                 the caller can do something about it
│   ├── InvalidRequest      422  invalid_request (malformed id, unknown field, bad cursor)
│   ├── Unauthenticated     401  unauthenticated
│   ├── Forbidden           403  forbidden
│   ├── NotFound            404  not_found, unknown_user
│   ├── Conflict            409  conflict, wrong_state
│   ├── KeyReused           422  idempotency_key_reused
│   ├── TooLarge            413  body_too_large
│   ├── Rejected            403  the admission's reason
│   └── Busy                503  queue_full, too_many_requests
├── Unavailable             503  a part of ours does not answer; try again
│   └── TimedOut            504  command_timeout
└── RuntimeFault            what a runtime says, mapped at its edge
    ├── RuntimeRetryable    try again with back-off
    ├── RuntimePermanent    trying again cannot help
    └── NeverSatisfiable    larger than anything this runtime has
"""

from typing import ClassVar


class BerthError(Exception):
    """Base. `detail` is a sentence for people, `code` is stable for programs, `action` says what would help."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, code: str | None = None, action: str | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_code = code or self.code
        self.action = action
        self.extra = extra


class Refused(BerthError):
    status = 400


class InvalidRequest(Refused):
    code, status = "invalid_request", 422


class Unauthenticated(Refused):
    code, status = "unauthenticated", 401


class Forbidden(Refused):
    code, status = "forbidden", 403


class NotFound(Refused):
    code, status = "not_found", 404


class Conflict(Refused):
    code, status = "conflict", 409


class KeyReused(Refused):
    code, status = "idempotency_key_reused", 422


class TooLarge(Refused):
    code, status = "body_too_large", 413


class Rejected(Refused):
    code, status = "rejected", 403


class Busy(Refused):
    code, status, retryable = "too_many_requests", 503, True


class Unavailable(BerthError):
    code, status, retryable = "unavailable", 503, True


class TimedOut(Unavailable):
    code, status = "command_timeout", 504


class RuntimeFault(BerthError):
    code, status = "runtime_fault", 502


class RuntimeRetryable(RuntimeFault):
    code, retryable = "runtime_retryable", True


class RuntimePermanent(RuntimeFault):
    code = "runtime_permanent"


class NeverSatisfiable(RuntimeFault):
    code = "never_satisfiable"
