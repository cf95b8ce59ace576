"""What the reaper forgets is found by its age, at every look, however much is kept.

Plain indexes: a second process that waits to migrate holds a snapshot, which `CONCURRENTLY` would wait for in vain. A
million kept lives keep writers waiting for about a second.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    over, refusals = sa.text("ended_at IS NOT NULL"), sa.text("agent_id IS NULL")
    op.create_index("ix_agents_ended_at", "agents", ["ended_at"], postgresql_where=over)
    op.create_index("ix_events_refusals", "events", ["at"], postgresql_where=refusals)


def downgrade() -> None:
    op.drop_index("ix_events_refusals", table_name="events")
    op.drop_index("ix_agents_ended_at", table_name="agents")
