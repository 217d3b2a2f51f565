"""Rows that nobody's call has made: what the YAML declares, what providers are found to serve."""
