"""Promises for any input, and a fuzzer that searches for input that breaks them.

`targets` has a function for each parser that takes bytes and fails if a promise is broken.
`test_targets` tries each with the same few thousand inputs in the normal run of the tests.
`python -m tests.fuzz` tries for longer, guided by coverage (atheris, which is libFuzzer).
"""
