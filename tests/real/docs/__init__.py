"""The documentation's commands, played as its readers type them, and the site, built and searched."""
