"""Django: `python manage.py runserver`, which is Daphne's."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    try:
        import daphne  # noqa: F401  # it is among the settings' apps
        from django.core.management import execute_from_command_line
    except ImportError:
        raise SystemExit("This example needs Django and Daphne: pip install django daphne") from None
    execute_from_command_line(sys.argv)
