"""`python -m django_shop`: everything that the shop needs, and its address. Ctrl-C ends it all."""

import argparse

from dispatcher.embedded import free_port

from parts import Parts, say, together


def main() -> None:
    """Start it and stay."""
    options = argparse.ArgumentParser(prog="python -m django_shop", description=__doc__)
    options.add_argument("--port", type=int, default=0, help="of the shop; by default any that is free")
    port = options.parse_args().port or free_port()
    address = f"http://127.0.0.1:{port}/"

    def begin(parts: Parts) -> None:
        parts.environment = {
            **parts.environment,
            "DJANGO_SETTINGS_MODULE": "django_shop.settings",
            "DJANGO_SUPERUSER_PASSWORD": "admin",
        }
        parts.run("django", "migrate")
        parts.run("django", "createsuperuser", "--noinput", "--username=admin", "--email=admin@example.com")
        parts.start("shop", "django", "runserver", "--noreload", f"127.0.0.1:{port}", url=address)
        parts.start("billing", "django", "bill")
        say(f"\nThe shop: {address}\nThe admin: {address}admin/ (admin, password admin)\nCtrl-C ends everything.\n")

    together(begin)


if __name__ == "__main__":
    main()
