"""``python -m ullava`` is the ``ullava`` command, for launchers such as torchrun that want a module."""

import sys

from ullava.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
