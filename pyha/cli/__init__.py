"""The `pyha` command. Reads configuration and status, talks to tokens on the operator's behalf, never runs in an
application."""
