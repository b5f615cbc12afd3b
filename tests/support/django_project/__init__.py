"""A Django project with our app in it, for tests/integration/test_client_django.py, which starts its manage.py."""
