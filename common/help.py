"""How `--help` tells a script's flags."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a script's docstring, and tells the defaults that say something."""

    def _get_help_string(self, action):
        says_nothing = action.default is None or action.default == "" or action.nargs == 0
        if says_nothing or "(default" in action.help:
            return action.help
        return super()._get_help_string(action)
