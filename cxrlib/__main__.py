"""`python -m cxrlib`."""

import sys

from cxrlib.cli import main

sys.exit(main())
