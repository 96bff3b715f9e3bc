"""A script's flags: shown in `--help`, parsed, and refused in one line."""

import argparse
import re

from common.base.files import UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of a script's docstring, and shows the defaults that say something."""

    def _get_help_string(self, action):
        says_nothing = action.default is None or action.default == "" or action.nargs == 0
        if says_nothing or "(default" in action.help:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with a flag in one line, without the list of all flags."""

    def error(self, message):
        """Raise `UserError`, where argparse prints the usage and ends the process."""
        raise UserError(re.sub("^argument ([^:]+)", r"\1", message) + "; see --help")


class TypedAction(argparse.Action):
    """Stores a flag's value, and adds the flag's name to `namespace.typed`."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value)
        namespace.typed = [*getattr(namespace, "typed", []), self.dest]


def number(text):
    """Parse a number: 0, or any that float32 holds."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value and not 1e-30 <= abs(value) <= 1e30:  # NaN is neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or out of range")
    return value


def whole(text):
    """Parse a whole number of 32 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(value) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is out of range")
    return value


def check_ranges(args, ranges):
    """Raise `UserError` for a flag outside its range, `{name: (least, most or None)}`."""
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if value is None or (value >= least and (most is None or value <= most)):
            continue
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"--{name.replace('_', '-')} {value}: must be {limits}")


def refuse_together(flag, others):
    """Raise `UserError` where one of the others is given beside a flag, `{other flag: given}`."""
    for other, given in others.items():
        if given:
            raise UserError(f"{flag}: cannot be combined with {other}; leave one of them out")
