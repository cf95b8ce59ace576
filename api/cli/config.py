"""The settings as a command reads them: in force, or one line that says which one is wrong."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.faults import WrongUse

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from core.settings import Settings

_PREFIX = "BERTH_"
# Read by commands themselves, or before there are settings.
_OTHERS = frozenset({"BERTH_CONFIG", "BERTH_API_URL", "BERTH_TOKEN"})
_MOST_NAMED = 3
_MASK = "**********"
_SECRET_WORDS = ("token", "secret", "password", "api_key", "apikey", "cookie", "authorization")


def load(**given: Any) -> "Settings":
    """The settings; `given` (by field name) wins over environment and file. Raises `WrongUse`."""
    path = os.environ.get("BERTH_CONFIG")
    if path and not Path(path).is_file():
        raise WrongUse(f"BERTH_CONFIG names {path}, which is no file")
    from pydantic import ValidationError
    from pydantic_settings import SettingsError
    from yaml import YAMLError

    from core.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        raise WrongUse(_named(error)) from error
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise WrongUse(f"{path or 'berth.yaml'} is not YAML{line}: {getattr(error, 'problem', error)}") from error
    except (SettingsError, OSError, TypeError, ValueError) as error:
        raise WrongUse(f"the settings cannot be read: {error}") from error


def unknown() -> list[str]:
    """Each `BERTH_` variable that means nothing, with the one that was perhaps meant."""
    from core.settings import Settings

    known = [_PREFIX + name.upper() for name in _names(Settings)]
    heads = tuple(Settings.model_fields)
    found = []
    for name in sorted(os.environ):
        head = name.removeprefix(_PREFIX).lower().split("__")[0]
        if not name.startswith(_PREFIX) or name in _OTHERS or head in heads:
            continue
        close = difflib.get_close_matches(name, known, 1, 0.8)
        found.append(f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else ""))
    return found


def in_force(settings: "Settings") -> dict[str, Any]:
    """All settings as plain values, pools as they came out, secrets masked."""
    values: dict[str, Any] = settings.model_dump(mode="json")
    values["pools"] = {name: pool.model_dump(mode="json") for name, pool in settings.all_pools().items()}
    _mask(values)
    return values


def require_database(settings: "Settings") -> str:
    if settings.database.url is None:
        raise WrongUse("BERTH_DATABASE__URL is not set", "or start everything with: berth up")
    return settings.database.url.get_secret_value()


def require_temporal(settings: "Settings") -> None:
    if settings.temporal.address is None:
        raise WrongUse("BERTH_TEMPORAL__ADDRESS is not set", "or start everything with: berth up")


def require_auth(settings: "Settings") -> None:
    try:
        settings.auth.require()
    except ValueError as error:
        raise WrongUse(str(error)) from error


def require_notices(settings: "Settings") -> None:
    """Whatever is to be sent can be signed."""
    try:
        if settings.webhook.url is not None:
            settings.webhook.keys()
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _mask(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _mask(value)
        elif isinstance(value, str) and any(word in name.lower() for word in _SECRET_WORDS):
            values[name] = _MASK


def _named(error: "ValidationError") -> str:
    """What is wrong with each setting, by the name of its variable; never its value, which may be a secret."""
    found = []
    for item in error.errors(include_input=False, include_url=False):
        name = _PREFIX + "__".join(str(part).upper() for part in item["loc"])
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "there is no such setting"
        found.append(problem if problem.startswith(name.removeprefix(_PREFIX)) else f"{name}: {problem}")
    more = f" (and {len(found) - _MOST_NAMED} more)" if len(found) > _MOST_NAMED else ""
    return "; ".join(found[:_MOST_NAMED]) + more


def _names(model: "type[BaseModel]") -> Iterator[str]:
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (f"{name}__{inner}" for inner in _names(kind))
        else:
            yield name
