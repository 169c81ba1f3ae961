"""Benchmarks. Throughput is compared with the article's own loop, measured in the same run."""
