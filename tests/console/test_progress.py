from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from sslpipe.console.progress import progress

CODE = """
from sslpipe.console.progress import progress
with progress("pretrain", 20, "steps", done=5) as bar:
    for step in range(15):
        bar.update(1, f"loss {step}.5")
"""


def test_a_pipe_gets_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("shard", 3, "images") as bar:
        for _ in range(3):
            bar.update(1, "fine")
    said = capfd.readouterr().err
    assert said.startswith("shard: 3/3 images, ")
    assert said.endswith(", fine\n")
    assert "\r" not in said


def test_a_terminal_gets_a_bar() -> None:
    pytest.importorskip("tqdm")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    last = shown.decode().replace("\r\n", "").split("\r")[-1]
    assert "20/20" in last
    assert "loss 14.5" in last
