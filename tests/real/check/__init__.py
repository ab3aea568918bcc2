"""`disconnect-mw check` on real servers."""
