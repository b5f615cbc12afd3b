# migrations/versions/0001_orders.py
import sqlalchemy as sa
from alembic import op
from dispatcher.client import alembic as outbox

revision, down_revision = "0001", None


def upgrade() -> None:
    outbox.upgrade(op)  # the outbox, where it is not there yet
    outbox.create_handled_event(op)  # what the worker has done
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("customer", sa.String(), nullable=False),
        sa.Column("total", sa.Numeric(), nullable=False),
    )
    op.create_table(
        "invoices",
        sa.Column("order_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("customer", sa.String(), nullable=False),
        sa.Column("total", sa.Numeric(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("invoices")
    op.drop_table("orders")
    outbox.drop_handled_event(op)
    outbox.downgrade(op)  # an error while events wait or are dead, or a dispatcher runs
