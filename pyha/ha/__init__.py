"""Decisions of a group: values in, values out. No C memory, no threads, no clock, no files."""
