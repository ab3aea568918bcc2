"""Apps to be checked, imported by servers from this directory."""
