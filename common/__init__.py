"""What two or more steps share, one room a file."""

import os
import sys


def _stop_in_one_line(kind, error, traceback):
    """The `sys.excepthook` of a script that is importing: Ctrl-C ends it as `files.run_script`."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{os.path.basename(sys.argv[0])}: stopped by Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _stop_in_one_line
