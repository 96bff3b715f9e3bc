"""Long work reports its progress: by a bar on a terminal, by lines in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from common.base.files import ROOT

WORK = """
import time
from common.base import progress
progress.SECONDS_BETWEEN_LINES = 0.1
with progress.Progress(40, "packing") as told:
    for _ in range(40):
        time.sleep(0.01)
        told.update()
"""


def test_in_a_pipe_it_is_a_line_now_and_then_and_a_last_one(python):
    lines = python(WORK).stderr.splitlines()
    assert 2 <= len(lines) <= 6
    for line in lines:
        assert re.fullmatch(r"packing: \d+/40 images, \d+\.\d images/s, 00:00 left", line)
    assert lines[-1].startswith("packing: 40/40 images, ")


def said_on_a_terminal(columns, work=WORK):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    subprocess.run([sys.executable, "-c", work], stderr=end, cwd=ROOT, check=True)
    os.write(end, b"|")  # else reading what is not there would wait
    os.close(end)
    return os.read(terminal, 100_000).decode()


def test_on_a_terminal_it_is_a_bar_with_the_rate_and_the_time_left():
    said = said_on_a_terminal(columns=100)
    assert said.count("\r") > 2
    assert re.search(r"packing: 100%.* 40/40 \[00:0\d<00:00, .* images/s\]", said)


def test_on_a_terminal_of_no_width_it_is_lines():
    assert "packing: 40/40 images, " in said_on_a_terminal(columns=0)


def test_hidden_it_is_nothing(python):
    hidden = WORK.replace("with ", "progress.hide()\nwith ")
    assert python(hidden).stderr == ""
    assert said_on_a_terminal(columns=100, work=hidden) == "|"
