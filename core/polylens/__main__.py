"""``python -m polylens``, for launchers that take a module: ``deepspeed --module polylens train ...``."""

import sys

from polylens.cli import main

if __name__ == "__main__":
    sys.exit(main())
