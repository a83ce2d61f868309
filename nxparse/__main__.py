"""Run the command line: `python -m nxparse`."""

import sys

from nxparse.cli.main import main

sys.exit(main())
