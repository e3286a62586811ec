"""What the user of the live view has chosen, and what each key does to it; nothing here draws or reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .common import Chosen
from .words import shown

SMOOTHING = (0.0, 0.6, 0.9, 0.99)
AUTOMATIC = 4
"""So many runs are shown when none was chosen: those that wrote last."""

HELP = (
    ("q", "quit; the training goes on"),
    ("/", "filter metrics: text or glob, Enter keeps it, Esc clears it"),
    ("s", "smoothing: off, 0.6, 0.9, 0.99 (moving average)"),
    ("y", "y axis: linear, logarithmic"),
    ("x", "x axis: step, time that the run has run"),
    ("1-9", "columns of charts; 0 as many as fit"),
    ("arrows, PgUp, PgDn", "pages of charts"),
    ("space", "pause, go on"),
    ("r", "choose runs"),
    ("c", "runs overlaid in one chart, or apart"),
    ("a", "alerts: what rules found and the training said"),
    ("d", "what a rewind took back, dimmed"),
    ("?", "this help"),
)


@dataclass
class Dashboard:
    """
    Attributes:
        mode: "" (charts), "filter", "runs", "alerts" or "help".
        picked: the runs that the user chose; None: those that wrote last.
        runs: all that there are, those that wrote last first.
        pages: how many there are, as of the last frame.
    """

    globs: Sequence[str] = ()
    filter: str = ""
    smoothing: int = 0
    log_y: bool = False
    by_time: bool = False
    columns: int = 0
    page: int = 0
    pages: int = 1
    paused: bool = False
    compare: bool = False
    dead: bool = False
    mode: str = ""
    cursor: int = 0
    picked: list[Chosen] | None = None
    named: bool = False
    runs: list[Chosen] = field(default_factory=list)
    done: bool = False

    def wanted(self, metric: str) -> bool:
        name = shown(metric)
        if self.globs and not any(fnmatchcase(name, glob) for glob in self.globs):
            return False
        text = self.filter.lower()
        return not text or text in name.lower() or fnmatchcase(name.lower(), text)

    def visible(self) -> list[Chosen]:
        """Return the runs to show."""
        if self.picked is not None:
            return self.picked
        return self.runs if self.named else self.runs[:AUTOMATIC]

    def press(self, key: str) -> None:
        {"filter": self._type, "runs": self._choose}.get(self.mode, self._act)(key)

    def _act(self, key: str) -> None:
        if self.mode in ("help", "alerts") and key in ("escape", "enter"):
            self.mode = ""
        elif key in _ACTIONS:
            _ACTIONS[key](self)
        elif key.isdecimal() and len(key) == 1:
            self.columns = int(key)
            self.page = 0

    def _type(self, key: str) -> None:
        self.page = 0
        if key == "enter":
            self.mode = ""
        elif key == "escape":
            self.mode, self.filter = "", ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1:
            self.filter += key

    def _choose(self, key: str) -> None:
        moves = {"up": -1, "down": 1, "pageup": -10, "pagedown": 10, "home": -len(self.runs), "end": len(self.runs)}
        if key in moves:
            self.cursor += moves[key]
        elif key in ("enter", "escape", "r", "q"):
            self.mode = ""
        elif key == "a":
            self.picked = None
        elif self.runs and key in (" ", "o"):
            run = self.runs[self.cursor]
            picked = [] if key == "o" else [other for other in self.visible() if other.folder != run.folder]
            self.picked = picked if len(picked) < len(self.visible()) and key == " " else [*picked, run]
        self.page = 0
        self.cursor = min(max(0, self.cursor), max(0, len(self.runs) - 1))

    def _turn(self, pages: int) -> None:
        self.page = min(max(0, self.page + pages), self.pages - 1)

    def _toggle(self, name: str) -> None:
        setattr(self, name, not getattr(self, name))

    def _enter(self, mode: str) -> None:
        self.mode = "" if self.mode == mode else mode

    def _smooth(self) -> None:
        self.smoothing = (self.smoothing + 1) % len(SMOOTHING)


_ACTIONS: dict[str, Callable[[Dashboard], None]] = {
    "q": lambda board: board._toggle("done"),
    "/": lambda board: board._enter("filter"),
    "s": Dashboard._smooth,
    "y": lambda board: board._toggle("log_y"),
    "x": lambda board: board._toggle("by_time"),
    " ": lambda board: board._toggle("paused"),
    "r": lambda board: board._enter("runs"),
    "c": lambda board: board._toggle("compare"),
    "a": lambda board: board._enter("alerts"),
    "d": lambda board: board._toggle("dead"),
    "?": lambda board: board._enter("help"),
    **dict.fromkeys(("left", "up", "pageup"), lambda board: board._turn(-1)),
    **dict.fromkeys(("right", "down", "pagedown"), lambda board: board._turn(1)),
    "home": lambda board: board._turn(-board.pages),
    "end": lambda board: board._turn(board.pages),
}
