"""Progress of long work: a bar on a terminal, plain lines in a pipe."""

import os
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10

_hidden = False


def hide():
    """Show no progress from now on."""
    global _hidden
    _hidden = True


def on_terminal():
    """Return whether stderr is a terminal that can show a bar, not a pipe or a file.

    Some containers and log writers provide a terminal without columns, which cannot.
    """
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class Progress:
    """Show on stderr how many items are done, their rate and the time left.

    A context manager: `with Progress(len(images), "packing") as progress: progress.update()`.
    A terminal shows a bar. A pipe or a log file gets a line every ten seconds, and a last one.
    After `hide()` there is neither.
    """

    def __init__(self, total, title, unit="images"):
        self.total, self.title, self.unit = total, title, unit
        self.count = 0
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if on_terminal() and not _hidden:
            self._bar = tqdm(total=total, desc=title, unit=f" {unit}", dynamic_ncols=True)

    def update(self, count=1):
        """Add `count` finished items."""
        self.count += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def close(self):
        """End the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self.count:
            self._print_line()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _print_line(self):
        if _hidden:
            return
        self._last_line = time.monotonic()
        rate = self.count / max(self._last_line - self._start, 1e-9)
        left = tqdm.format_interval(max(self.total - self.count, 0) / rate)
        print(
            f"{self.title}: {self.count}/{self.total} {self.unit}, "
            f"{rate:.1f} {self.unit}/s, {left} left",
            file=sys.stderr,
            flush=True,
        )
