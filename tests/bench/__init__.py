"""Benchmarks: each measures figures of CONTRIBUTING on the local machine."""
