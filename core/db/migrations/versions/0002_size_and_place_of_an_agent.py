"""size and place of an agent."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("cpu_limit", sa.Float(), nullable=True))
    op.add_column("agents", sa.Column("memory_limit_mib", sa.Integer(), nullable=True))
    op.add_column("agents", sa.Column("away_from", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("agents", "away_from")
    op.drop_column("agents", "memory_limit_mib")
    op.drop_column("agents", "cpu_limit")
