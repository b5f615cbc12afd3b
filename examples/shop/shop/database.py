# shop/database.py
import os

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

Sessions = async_sessionmaker[AsyncSession]


def make_engine() -> AsyncEngine:
    """DATABASE_URL begins with postgresql://, as the dispatcher wants it; SQLAlchemy wants its driver named."""
    url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
    return create_async_engine(url, pool_pre_ping=True)  # or the first request after a restart of Postgres fails


def make_sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)
