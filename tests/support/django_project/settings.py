"""Settings by environment variables: DATABASE, OTHER (URLs), ENGINE, TRIGGER, NOMIGRATIONS."""

import os
from typing import Any
from urllib.parse import urlsplit


def database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.removeprefix("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        # The servers of the session are shared: each test has a name of its own.
        "TEST": {"NAME": f"test_{parts.path.removeprefix('/')}"},
    }


SECRET_KEY = "of a test"
DEBUG = os.environ.get("DEBUG") == "1"
USE_TZ = True
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "urls"
DATABASES = {"default": database(os.environ["DATABASE"])}
if "OTHER" in os.environ:
    DATABASES["other"] = database(os.environ["OTHER"])
if os.environ.get("ENGINE") == "sqlite":
    DATABASES["default"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
OUTBOX_TRIGGER = os.environ.get("TRIGGER") != "off"
if os.environ.get("NOMIGRATIONS") == "1":
    MIGRATION_MODULES = {"outbox_dispatcher": None, "shop": None}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "dispatcher.client.django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if "RUNNER" in os.environ:
    TEST_RUNNER = os.environ["RUNNER"]
