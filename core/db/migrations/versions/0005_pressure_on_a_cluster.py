"""pressure on a cluster."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_EMPTY = sa.text("'{}'::jsonb")


def upgrade() -> None:
    op.add_column("clusters", sa.Column("pressure_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("clusters", sa.Column("refused", JSONB(), server_default=_EMPTY, nullable=False))
    op.add_column("clusters", sa.Column("evictions", JSONB(), server_default=_EMPTY, nullable=False))


def downgrade() -> None:
    op.drop_column("clusters", "evictions")
    op.drop_column("clusters", "refused")
    op.drop_column("clusters", "pressure_since")
