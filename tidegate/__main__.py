"""`python -m tidegate`: the command line, where no `tidegate` script is installed."""

import sys

from tidegate.cli import main

sys.exit(main())
