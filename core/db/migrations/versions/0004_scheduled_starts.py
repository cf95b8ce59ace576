"""scheduled starts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PENDING = sa.text("state IN ('scheduled', 'starting')")


def upgrade() -> None:
    op.create_table(
        "scheduled_starts",
        sa.Column("scheduled_start_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=True),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), server_default="scheduled", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('scheduled','starting','started','rejected','cancelled')",
            name=op.f("ck_scheduled_starts_state"),
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name=op.f("fk_scheduled_starts_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name=op.f("fk_scheduled_starts_user_id")),
        sa.PrimaryKeyConstraint("scheduled_start_id", name=op.f("pk_scheduled_starts")),
    )
    op.create_index(
        "ix_scheduled_starts_user_page", "scheduled_starts", ["user_id", "created_at", "scheduled_start_id"]
    )
    op.create_index("ix_scheduled_starts_pending", "scheduled_starts", ["start_at"], postgresql_where=_PENDING)
    op.create_index("ix_scheduled_starts_ended_at", "scheduled_starts", ["ended_at"])


def downgrade() -> None:
    op.drop_table("scheduled_starts")
