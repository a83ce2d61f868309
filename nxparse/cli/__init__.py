"""The command line: `python -m nxparse`."""
