"""How a command ends.

Exit status: 0 done; 1 something failed, it says what; 2 the command line is wrong; 74 the disk refuses; 75 another
ddslogd works on the same directory; 78 the configuration is wrong (sysexits.h).
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ddslogd.cli.standard_streams import complain

EXIT_FAILED = 1
EXIT_DISK = 74
EXIT_LOCKED = 75
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130


def end(message: str, status: int) -> NoReturn:
    """End the command: print why, and exit."""
    complain(message)
    sys.exit(status)
