"""Threads, clock, files and members: where the decisions of `pyha.ha` meet the world."""
