"""An operator's attributes: text in a graph, numbers and tuples for those who compute."""

import re

from common.networks.signatures import is_true

_MISSING = ("", "None")


class Attributes:
    """Reads the attributes of one node; a default is what MXNet takes where there is none."""

    def __init__(self, node):
        self._texts = node.get("attrs", {})

    def text(self, key, default=None):
        """Return an attribute as it is written."""
        value = self._texts.get(key, default)
        return default if value in _MISSING else value

    def flag(self, key, default=False):
        """Return whether an attribute is true."""
        value = self.text(key)
        return default if value is None else is_true(value)

    def number(self, key, default=None):
        """Return an attribute as a float."""
        value = self.text(key)
        return default if value is None else float(value)

    def integer(self, key, default=None):
        """Return an attribute as an int."""
        value = self.text(key)
        return default if value is None else int(float(value))

    def integers(self, key, default=()):
        """Return an attribute as a tuple of int or None: of `(2, 2)`, `[2, None]`, `(2L,)`, `2`."""
        value = self.text(key)
        if value is None:
            return default
        words = re.findall(r"-?\d+|None", value)
        return tuple(None if word == "None" else int(word) for word in words)

    def require(self, key, *allowed, default=None):
        """Return a text that must be one of those `allowed`.

        Raises:
            ValueError: it is another one.
        """
        value = self.text(key, default)
        if value not in allowed:
            raise ValueError(f"{key}={value}")
        return value
