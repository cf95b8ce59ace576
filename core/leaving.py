"""How a process of Berth ends."""

import atexit
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process at once, with what it printed and logged written, and without tearing the interpreter down.

    Native threads of Temporal's client may still hold objects of Python when that happens. Now and then the process
    dies of it (exit codes 134 and 139, sdk-python #300), and a command that did what it was asked for seems to have
    failed. What has to be let go in order must have been let go before; what libraries do at exit is done, as the files
    with keys that a cluster's client wrote must go.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
