"""As Django makes them, but for what an example does not need."""

SECRET_KEY = "for an example only"
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["daphne"]
ASGI_APPLICATION = "asgi.application"
ROOT_URLCONF = "urls"
