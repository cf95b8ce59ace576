"""While a release is rolled out, replicas of the one before work on the new schema: migrations only add.

The first migration makes the schema, so there was nobody before it. What each later one does is read as the SQL that it
sends. Statements that change rows alone are not judged, except those that delete.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

import core.db

MIGRATIONS = Path(core.db.__file__).parent / "migrations"
# `# old replicas: DROP COLUMN seq: why they do without it`, in the migration.
ALLOWED = re.compile(r"# old replicas: ([^:\n]+): \S")

TAKEN = "the release before still reads or writes it"
NARROWER = "the release before still writes rows that would be refused"
HARMFUL = {
    r"^DROP (TABLE|VIEW|MATERIALIZED VIEW|TYPE|SEQUENCE|FUNCTION|TRIGGER)\b": TAKEN,
    r"^ALTER TABLE \S+ DROP COLUMN\b": TAKEN,
    r"^ALTER \w+ \S+ RENAME\b": TAKEN,
    r"^ALTER TABLE \S+ ALTER COLUMN \S+ (SET DATA )?TYPE\b": "the release before still reads and writes the old type",
    r"^ALTER TABLE \S+ ALTER COLUMN \S+ SET NOT NULL\b": NARROWER,
    r"^ALTER TABLE \S+ ALTER COLUMN \S+ DROP DEFAULT\b": NARROWER,
    r"^ALTER TABLE \S+ ADD COLUMN (?=.*\bNOT NULL\b)(?!.*\bDEFAULT\b)": "the release before adds rows without it",
    r"^ALTER TABLE \S+ ADD CONSTRAINT\b": NARROWER,
    r"^CREATE UNIQUE INDEX\b": NARROWER,
    r"^(DROP INDEX|ALTER TABLE \S+ DROP CONSTRAINT) (uq|pk)_": "an ON CONFLICT of the release before may need it",
    r"^(DELETE FROM|TRUNCATE)\b": TAKEN,
}
WHAT_TO_DO = """\
Spread it over two releases: this one adds what is new beside what there is (a nullable column, or one with a server
default; write both while both are read), and the one after it takes away what nobody uses any more. What the release
before does not feel is said in the migration: `# old replicas: DROP COLUMN seq: no release has read it since 0.2`."""


def _migrations() -> list[ModuleType]:
    scripts = ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    return sorted((script.module for script in scripts if script.down_revision), key=lambda module: module.__name__)


def sent(upgrade: Callable[[], None]) -> list[str]:
    """The statements of a migration, on a line each."""
    written = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written, "literal_binds": True}
    )
    with Operations.context(context):
        upgrade()
    return [statement for part in written.getvalue().split(";\n") if (statement := " ".join(part.split()))]


def harm(upgrade: Callable[[], None], source: str) -> list[str]:
    """What replicas of the release before would not survive, with why."""
    allowed, found, own = ALLOWED.findall(source), [], set()
    for statement in sent(upgrade):
        if made := re.match(r"CREATE TABLE (\S+)", statement):
            own.add(made[1])
        if (on := re.search(r"\b(?:TABLE|ON|FROM) (\S+)", statement)) and on[1] in own:
            continue
        why = next((why for pattern, why in HARMFUL.items() if re.search(pattern, statement, re.IGNORECASE)), None)
        if why is not None and not any(each in statement for each in allowed):
            found.append(f"{statement}\n  {why}")
    return found


@pytest.mark.parametrize("migration", _migrations(), ids=lambda module: Path(module.__file__ or "").stem)
def test_replicas_of_the_release_before_survive_a_migration(migration: ModuleType) -> None:
    found = harm(migration.upgrade, Path(migration.__file__ or "").read_text())
    assert not found, "\n".join([*found, WHAT_TO_DO])


def _column(**options: object) -> sa.Column[str]:
    return sa.Column("seed", sa.Text(), **options)  # type: ignore[arg-type]


WRONG: dict[str, Callable[[], None]] = {
    "table dropped": lambda: op.drop_table("agents"),
    "column dropped": lambda: op.drop_column("agents", "reason"),
    "table renamed": lambda: op.rename_table("agents", "lives"),
    "column renamed": lambda: op.alter_column("agents", "reason", new_column_name="why"),
    "column of another type": lambda: op.alter_column("agents", "reason", type_=sa.Integer()),
    "column that must be there": lambda: op.alter_column("agents", "reason", nullable=False),
    "default dropped": lambda: op.alter_column("agents", "reason", server_default=None),
    "column without a default": lambda: op.add_column("agents", _column(nullable=False)),
    "constraint": lambda: op.create_check_constraint("ck_agents_reason", "agents", "reason <> ''"),
    "unique index": lambda: op.create_index("uq_agents_reason", "agents", ["reason"], unique=True),
    "unique index dropped": lambda: op.drop_index("uq_agents_current", table_name="agents"),
    "rows deleted": lambda: op.execute("DELETE FROM agents WHERE reason IS NULL"),
    "by hand": lambda: op.execute("alter table agents\n  drop column reason"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_takes_something_from_the_release_before_is_refused(wrong: Callable[[], None]) -> None:
    assert len(harm(wrong, "")) == 1


def test_what_only_adds_passes() -> None:
    def adds() -> None:
        op.add_column("agents", _column(nullable=True))
        op.add_column("agents", sa.Column("tries", sa.Integer(), server_default="0", nullable=False))
        op.create_index("ix_agents_seed", "agents", ["seed"])
        op.create_table("seeds", sa.Column("seed", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("seed"))
        op.create_index("uq_seeds", "seeds", ["seed"], unique=True)
        op.create_check_constraint("ck_seeds", "seeds", "seed <> ''")
        op.execute("UPDATE agents SET seed = agent_id")

    assert harm(adds, "") == []


def test_what_a_migration_gives_a_reason_for_passes_and_nothing_beside_it() -> None:
    def drops() -> None:
        op.drop_column("agents", "reason")
        op.drop_column("agents", "keepable")

    (found,) = harm(drops, "    # old replicas: DROP COLUMN reason: no release has read it since 0.2\n")
    assert found.startswith("ALTER TABLE agents DROP COLUMN keepable")
