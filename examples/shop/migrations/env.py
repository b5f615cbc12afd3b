# migrations/env.py
import asyncio
from logging.config import fileConfig

from alembic import context
from dispatcher.client.alembic import include_name
from shop.database import make_engine
from shop.models import Base
from sqlalchemy import Connection


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    engine = make_engine()
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if context.config.config_file_name is not None:  # what Alembic says; without the argument it would silence your loggers
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
asyncio.run(main())
