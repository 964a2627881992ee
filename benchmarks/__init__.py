"""Measurements of clearloop; `python -m benchmarks` runs them all, a name runs one."""
