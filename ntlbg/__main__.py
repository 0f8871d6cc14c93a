"""`python -m ntlbg` is the `ntlbg` command."""

import sys

from ntlbg.cli import main


if __name__ == "__main__":
    sys.exit(main())
