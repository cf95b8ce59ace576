"""What lists and looks ask for is found by an index, however much is kept.

Plain indexes, for the reason that 0007 gives; a million commands keep writers waiting for about three seconds. Each is a
transaction by itself: whoever ends a life writes its agent and then its commands, and if we held the one table and asked
for the other, each would wait for the other. A try that met the lock timeout leaves some of them, and the next goes on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    answered = sa.text("kind = 'execute' AND state IN ('done','failed','cancelled')")
    with op.get_context().autocommit_block():
        op.create_index("ix_memberships_user_id", "memberships", ["user_id", "project_id"], if_not_exists=True)
        op.create_index("ix_agents_state_page", "agents", ["state", "created_at", "agent_id"], if_not_exists=True)
        op.create_index(
            "ix_commands_answered",
            "commands",
            ["agent_id", "attempt", "ended_at"],
            postgresql_where=answered,
            if_not_exists=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_commands_answered", table_name="commands", if_exists=True)
        op.drop_index("ix_agents_state_page", table_name="agents", if_exists=True)
        op.drop_index("ix_memberships_user_id", table_name="memberships", if_exists=True)
