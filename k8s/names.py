"""Names and labels in a cluster: legal whatever an id holds, the same every time, never of two different things."""

import hashlib
import re

MAX_NAME = 63
# Stands before a hash, and so in no name or label that was taken over as it is.
_MARK = "--"
_HASH_LENGTH = 20
_PLAIN_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def attempt_name(agent_id: str, attempt: int) -> str:
    """Of the pod, the Service and the Secret of one attempt: `agent-<agent>-<attempt>`, a DNS label."""
    tail = f"-{attempt}"
    return f"agent-{_fitted(agent_id, MAX_NAME - len('agent-') - len(tail))}{tail}"


def profile_name(installation: str, user_id: str, project_id: str) -> str:
    """Of the volume claim of a user's project, and the label value of all that uses it."""
    return f"profile-{_digest(installation, user_id, project_id)[:40]}"


def watch_lease(installation: str) -> str:
    """Of the Lease that whoever watches an installation's agents holds."""
    return f"berth-watch-{installation}"


def label_value(value: str) -> str:
    """`value` where a label may hold it, else what can be read of it and a hash. The full value is in an annotation."""
    if value == "" or (len(value) <= MAX_NAME and _MARK not in value and _PLAIN_LABEL.fullmatch(value)):
        return value
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", value)[: MAX_NAME - len(_MARK) - _HASH_LENGTH].strip("-_.")
    return f"{readable or 'x'}{_MARK}{_digest(value)[:_HASH_LENGTH]}"


def _fitted(agent_id: str, room: int) -> str:
    if len(agent_id) <= room and _MARK not in agent_id and _PLAIN_NAME.fullmatch(agent_id):
        return agent_id
    readable = re.sub(r"[^a-z0-9]+", "-", agent_id.lower())[: room - len(_MARK) - _HASH_LENGTH].strip("-")
    return f"{readable or 'x'}{_MARK}{_digest(agent_id)[:_HASH_LENGTH]}"


def _digest(*parts: str) -> str:
    """Of the parts as a list: a pair must not read as another pair. Lone surrogates, which are no text, hash too."""
    encoded = [part.encode(errors="surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in encoded)).hexdigest()
