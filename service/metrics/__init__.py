"""Metrics: the numbers of one process, as plain integers, and their Prometheus exposition."""
