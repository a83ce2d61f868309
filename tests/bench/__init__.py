"""Benchmarks: each prints what README claims, measured on the machine that it runs on."""
