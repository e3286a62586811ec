"""The terminal of the live view: single keys, its size, and how it gets back what it was on every way out."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_NAMES = {
    **{"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"},
    **{"\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left"},
    **{"\x1b[5~": "pageup", "\x1b[6~": "pagedown", "\x1b[H": "home", "\x1b[F": "end", "\x1b[1~": "home"},
    **{"\x1b[4~": "end", "\x1b": "escape", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"},
}
_ESCAPE_S = 0.05
"""After so long an escape that nothing followed was the key; what a key sends comes at once, over ssh nearly so."""


def split(text: str) -> list[str]:
    """Return the keys of what was typed: characters, and names for those that are none; unknown sequences are left out."""
    keys = []
    while text:
        size = 1
        if text[0] == "\x1b" and len(text) > 1 and text[1] in "[O":
            size = 2
            while size < len(text) and not "@" <= text[size] <= "~":
                size += 1
            size += 1
        key, text = text[:size], text[size:]
        name = _NAMES.get(key, key)
        if (len(name) == 1 and not name.isprintable()) or name.startswith("\x1b"):
            continue
        keys.append(name)
    return keys


class Keyboard:
    """What is typed on a terminal, and whether its size changed."""

    def __init__(self, terminal: int, wake: int) -> None:
        self._terminal, self._wake = terminal, wake

    def read(self, seconds: float) -> list[str]:
        """Return the keys typed by now; waits for one for so long, and not beyond a change of the terminal's size."""
        ready, _, _ = select.select([self._terminal, self._wake], [], [], max(0.0, seconds))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._terminal not in ready:
            return []
        typed = os.read(self._terminal, 4096)
        if not typed:
            raise EOFError  # the terminal is gone
        if typed[-1:] == b"\x1b" and select.select([self._terminal], [], [], _ESCAPE_S)[0]:
            typed += os.read(self._terminal, 4096)
        return split(typed.decode(errors="ignore"))


@contextlib.contextmanager
def keyboard(pause: Callable[[], None], resume: Callable[[], None]) -> Iterator[Keyboard]:
    """
    Take the keys of the terminal one by one.

    SIGTERM, SIGHUP and SIGQUIT end this by SystemExit, so that everything is given back; Ctrl-Z gives the terminal back
    until the process goes on.

    Args:
        pause, resume: leave and enter what is shown, around a Ctrl-Z.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)

    def end(number: int, _: FrameType | None) -> NoReturn:
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)  # what is under way gives the terminal back
        sys.exit(128 + number)

    def stop(*_: object) -> None:
        pause()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.kill(os.getpid(), signal.SIGSTOP)
        tty.setcbreak(terminal)
        resume()

    kept = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGTSTP, signal.SIGWINCH)}
    old_wake = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        tty.setcbreak(terminal)
        for number in _ENDING:
            signal.signal(number, end)
        signal.signal(signal.SIGTSTP, stop)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # wakes `read`
        yield Keyboard(terminal, wake)
    finally:
        with contextlib.suppress(termios.error, OSError):  # it may be gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(old_wake)
        for number, handler in kept.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(woken)


_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
