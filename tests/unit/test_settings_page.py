"""docs/settings.md holds every setting with its default, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from core.domain.templates import Pool, Template
from core.domain.timings import Timings
from core.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
# Sections of what has names of its own; the settings that are variables too are in all others.
OWN: dict[str, type[BaseModel]] = {"Pools": Pool, "Templates": Template}


def settings_of(model: type[BaseModel], separator: str, *above: str) -> Iterator[tuple[str, str]]:
    """Name and default of each, and of each group that is not there unless it is set."""
    for name, field in model.model_fields.items():
        path, group = (*above, field.alias or name), group_of(field)
        if group is None or field.default is None:
            yield separator.join(path), written(field)
        if group is not None:
            yield from settings_of(group, separator, *path)


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field is, or may be. What a list or a dictionary holds is told in its own row."""
    parts = get_args(field.annotation)
    found = [field.annotation, *(parts if type(None) in parts else ())]
    group = next((each for each in found if isinstance(each, type) and issubclass(each, BaseModel)), None)
    # A template's own timings are the general ones again.
    return None if group is Timings and field.default is None else group


def written(field: FieldInfo) -> str:
    """A default as the page has it: as one writes it in `berth.yaml`."""
    if field.is_required():
        return "needed"
    value: Any = field.default
    match value:
        case None:
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`{list(value)}`"
        case float():
            return f"`{value:g}`"
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case _:
            return f"`{value}`"


def sections() -> dict[str, list[tuple[str, str]]]:
    """Name and default of each row, by section."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        found[title] = re.findall(r"^\| `([^`|]+)` \| ([^|]+) \| [^|]+ \|$", text, flags=re.MULTILINE)
        assert len(found[title]) == text.count("\n| ") - 1, f"a row of {title} is not of three cells"
    return found


def test_every_setting_is_told_with_its_default_and_none_that_is_not_there() -> None:
    told = sorted(row for title, rows in sections().items() if title not in OWN for row in rows)
    general = settings_of(Settings, "__")
    assert told == sorted((name.upper(), default) for name, default in general if name.capitalize() not in OWN)


@pytest.mark.parametrize("title", OWN)
def test_all_that_a_pool_or_a_template_may_hold_is_told_with_its_default(title: str) -> None:
    assert sorted(sections()[title]) == sorted(settings_of(OWN[title], "."))
