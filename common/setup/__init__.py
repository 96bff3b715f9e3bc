"""The set-up: which engine fits this machine, and an environment that has it.

`sh setup.sh` calls it before any package is installed: it imports only the standard library.
"""


class SetupError(Exception):
    """What went wrong in the set-up and what to do, in one line: the last one of the run."""
