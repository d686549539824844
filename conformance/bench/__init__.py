"""How fast the virtual slot is beside what it stands in front of: `python -m conformance.bench`."""
