"""`python -m ssprompt_hf`, the same as `ssprompt-hf`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
