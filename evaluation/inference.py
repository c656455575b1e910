"""Ask a model about images: ``python evaluation/inference.py --model tiny --image F --prompt P --out DIR``.

The same as ``ullava predict``; see ``ullava predict --help`` for every option.
"""

from __future__ import annotations

import sys

from ullava.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
