"""Promises for any input, and a fuzzer that searches for input that breaks them.

`targets` has the table: for each parser a function that takes bytes and fails if
a promise is broken. `test_targets` tries each with a few thousand inputs, always
the same ones, in the normal run of the tests. `python -m tests.fuzz` tries for as
long as it is told to, led by what of the code an input reaches (atheris, which is
libFuzzer): `__main__` starts a process of `worker` for each target.
"""
