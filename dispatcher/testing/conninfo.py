"""Where the database of a Django connection is."""

from typing import Any

from psycopg.conninfo import make_conninfo

_OF_DJANGO = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
LIBPQ = ("service", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "gssencmode")


def conninfo_of(connection: Any) -> str:
    """A connection string for the database that Django's `connection` works on, such as the test database."""
    settings = connection.settings_dict
    parts = {libpq: settings[name] for name, libpq in _OF_DJANGO.items() if settings.get(name)}
    return make_conninfo(**parts, **{name: settings["OPTIONS"][name] for name in LIBPQ if name in settings["OPTIONS"]})
