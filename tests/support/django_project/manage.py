"""The project's commands."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    if os.environ.get("DRIVER") == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django then takes the other one
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
