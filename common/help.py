"""How a script's flags are told in `--help`, read, and refused in one line."""

import argparse
import re

from common.files import UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a script's docstring, and tells the defaults that say something."""

    def _get_help_string(self, action):
        says_nothing = action.default is None or action.default == "" or action.nargs == 0
        if says_nothing or "(default" in action.help:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a flag, as of everything else, not under all flags."""

    def error(self, message):
        """Raise `UserError`, where argparse prints and ends the process."""
        raise UserError(re.sub("^argument ([^:]+)", r"\1", message) + "; see --help")


class TypedAction(argparse.Action):
    """Keeps a flag's value, and in `namespace.typed` that the flag was typed."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value)
        namespace.typed = [*getattr(namespace, "typed", []), self.dest]


def number(text):
    """Parse a flag's number: any that MXNet's float32 holds."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value and not 1e-30 <= abs(value) <= 1e30:  # NaN is neither
        raise argparse.ArgumentTypeError(f"{text!r} is no number, or too large or small a one")
    return value


def whole(text):
    """Parse a flag's whole number: any of MXNet's 32 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if abs(value) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is too large a number")
    return value


def check_ranges(args, ranges):
    """Raise `UserError` for a flag that is out of its range, `{name: (least, most or None)}`."""
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if value is None or (value >= least and (most is None or value <= most)):
            continue
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"--{name.replace('_', '-')} {value}: must be {limits}")
