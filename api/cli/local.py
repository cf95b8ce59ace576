"""The local stack of a data folder, as other commands find it: its addresses and its secret."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.faults import WrongUse

if TYPE_CHECKING:
    from pydantic import SecretStr

    from core.settings import Settings


class LocalStack:
    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def described(self, name: str) -> str | None:
        """What `stack.json` says of `name`; None when no stack runs here. Raises `WrongUse` when it is not ours."""
        path = self._data_dir / "stack.json"
        try:
            found = json.loads(path.read_text()).get(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise WrongUse(f"{path} belongs to another user", "ask as the one who started the stack") from error
        except (OSError, ValueError, AttributeError) as error:
            raise WrongUse(f"{path} cannot be read: {error}") from error
        return found if isinstance(found, str) else None

    def secret(self) -> "SecretStr | None":
        """What the stack signs tokens with."""
        from pydantic import SecretStr

        path = self._data_dir / "secrets" / "auth"
        try:
            return SecretStr(path.read_text().strip())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise WrongUse(f"{path} cannot be read: {error.strerror}", "ask as the one who started it") from error


def addressed(settings: "Settings") -> "Settings":
    """The same with the addresses of the local stack of this data folder, and the runtime that it was started with,
    where the settings have no addresses.
    """
    from pydantic import SecretStr

    stack = LocalStack(settings.data_dir)
    database, temporal = settings.database, settings.temporal
    if database.url is None and (url := stack.described("database")) is not None:
        database = database.model_copy(update={"url": SecretStr(url)})
        settings = _run_by(settings, stack.described("runtime"))
    if temporal.address is None:
        temporal = temporal.model_copy(update={"address": stack.described("temporal")})
    return settings.model_copy(update={"database": database, "temporal": temporal})


def _run_by(settings: "Settings", runtime: str | None) -> "Settings":
    """The same with the default pool's runtime as it was typed at `berth up`, which goes before all settings."""
    from core.domain.templates import Pool
    from core.settings import DEFAULT_POOL

    if runtime is None or settings.default_runtime == runtime:
        return settings
    default = settings.pools.get(DEFAULT_POOL, Pool()).model_copy(update={"runtime": runtime})
    return settings.model_copy(update={"pools": {**settings.pools, DEFAULT_POOL: default}})
