"""fair order and measured waits."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WAITING = sa.text("state IN ('queued', 'requested')")


def upgrade() -> None:
    # All with defaults: workers of the version before go on adding rows while this one is rolled out.
    op.add_column("agents", sa.Column("order_fair", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "agents", sa.Column("order_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
    )
    op.add_column("agents", sa.Column("order_others", sa.Integer(), server_default="0", nullable=False))
    op.add_column("agents", sa.Column("wait_low_minutes", sa.Integer(), nullable=True))
    op.add_column("agents", sa.Column("wait_high_minutes", sa.Integer(), nullable=True))
    op.execute("UPDATE agents SET order_since = order_at WHERE state IN ('queued', 'requested')")
    op.drop_index("ix_agents_waiting", table_name="agents", postgresql_where=_WAITING)
    op.create_index(
        "ix_agents_waiting",
        "agents",
        ["pool", "order_front", "order_tier", "order_fair", "order_at", "agent_id"],
        unique=False,
        postgresql_where=_WAITING,
    )
    op.add_column("life_statistics", sa.Column("minutes", sa.Float(), server_default="0", nullable=False))
    op.add_column(
        "life_statistics",
        sa.Column("arrivals", postgresql.ARRAY(sa.Float()), server_default=sa.text("'{0,0,0,0}'"), nullable=False),
    )
    op.add_column("life_statistics", sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))
    # Arrivals are counted before anybody departed.
    # old replicas: ADD CONSTRAINT ck_life_statistics_weight: it takes all that the one before took
    op.drop_constraint(op.f("ck_life_statistics_weight"), "life_statistics", type_="check")
    op.create_check_constraint(op.f("ck_life_statistics_weight"), "life_statistics", "weight >= 0")
    op.create_table(
        "wait_tallies",
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("pool", "measure", "bucket", name=op.f("pk_wait_tallies")),
    )
    op.create_table(
        "eviction_credits",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("evicted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.project_id"], name=op.f("fk_eviction_credits_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.user_id"], name=op.f("fk_eviction_credits_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "project_id", name=op.f("pk_eviction_credits")),
    )
    op.create_index(op.f("ix_eviction_credits_until"), "eviction_credits", ["until"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_eviction_credits_until"), table_name="eviction_credits")
    op.drop_table("eviction_credits")
    op.drop_table("wait_tallies")
    op.execute("DELETE FROM life_statistics WHERE weight <= 0")
    op.drop_constraint(op.f("ck_life_statistics_weight"), "life_statistics", type_="check")
    op.create_check_constraint(op.f("ck_life_statistics_weight"), "life_statistics", "weight > 0")
    op.drop_column("life_statistics", "counted_at")
    op.drop_column("life_statistics", "arrivals")
    op.drop_column("life_statistics", "minutes")
    # Keys made with ageing have no tier of their own.
    op.execute(
        "UPDATE agents SET order_at = order_since,"
        " order_tier = CASE tier WHEN 'enterprise' THEN 1 WHEN 'premium' THEN 2 WHEN 'basic' THEN 3 ELSE 4 END"
        " WHERE order_tier = 0 AND state IN ('queued', 'requested')"
    )
    op.drop_index("ix_agents_waiting", table_name="agents", postgresql_where=_WAITING)
    op.create_index(
        "ix_agents_waiting",
        "agents",
        ["pool", "order_front", "order_tier", "order_at", "agent_id"],
        unique=False,
        postgresql_where=_WAITING,
    )
    for column in ("wait_high_minutes", "wait_low_minutes", "order_others", "order_since", "order_fair"):
        op.drop_column("agents", column)
