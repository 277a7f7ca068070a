"""`python -m fundusforge`: the same as the command `fundusforge`."""

import sys

from fundusforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
