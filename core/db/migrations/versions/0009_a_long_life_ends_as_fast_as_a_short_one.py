"""What the end of a life and of an attempt ask for is found by an index, however much the agent was told to do.

Plain indexes, each a transaction by itself, for the reasons that 0007 and 0008 give.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tasks, of_life = sa.text("kind = 'execute' AND name = 'run_task'"), sa.text("kind <> 'command.executed'")
    with op.get_context().autocommit_block():
        op.create_index("ix_commands_tasks", "commands", ["agent_id"], postgresql_where=tasks, if_not_exists=True)
        op.create_index(
            "ix_events_of_life", "events", ["agent_id", "seq"], postgresql_where=of_life, if_not_exists=True
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_events_of_life", table_name="events", if_exists=True)
        op.drop_index("ix_commands_tasks", table_name="commands", if_exists=True)
