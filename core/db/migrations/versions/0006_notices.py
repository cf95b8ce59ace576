"""notices."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice_channels",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("outcomes", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_notice_channels")),
    )
    op.create_table(
        "notices",
        sa.Column("notice_id", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("recipient", sa.Text(), nullable=True),
        sa.Column("event", JSONB(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('pending','sent','dead')", name=op.f("ck_notices_state")),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_notices")),
    )
    pending, dead = sa.text("state = 'pending'"), sa.text("state = 'dead'")
    op.create_index("ix_notices_pending", "notices", ["channel", "next_try_at"], postgresql_where=pending)
    op.create_index("ix_notices_dead", "notices", ["channel", "created_at"], postgresql_where=dead)
    op.create_index("ix_notices_page", "notices", ["created_at", "notice_id"])
    op.create_index("ix_notices_ended_at", "notices", ["ended_at"])


def downgrade() -> None:
    op.drop_table("notices")
    op.drop_table("notice_channels")
