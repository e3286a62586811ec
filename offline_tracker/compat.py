"""
What code written for wandb or swanlab has at hand besides the run: accepted as it is called there.

Media, tables and files are not stored yet. Nothing here raises for that: of a call that holds one the other values are
kept, and one warning names its key.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import IO, Any

from .errors import UsageError

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Media:
    """A picture, a plot, a sound: takes whatever it is given, and keeps nothing of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def item(self) -> Any:
        """Say, where `log` asks for the scalar in it, why there is none."""
        raise TypeError("images, tables and other media are not stored yet")


class Audio(Media):
    """A sound."""


class Histogram(Media):
    """How often values occur."""


class Html(Media):
    """A page."""


class Image(Media):
    """A picture."""


class Molecule(Media):
    """A molecule."""


class Object3D(Media):
    """A cloud of points, or a mesh."""


class Plotly(Media):
    """A figure of plotly's."""


class Text(Media):
    """A text of swanlab's; a plain str can be logged."""


class Video(Media):
    """Moving pictures."""


class Table(Media):
    """Columns and rows, for code that fills one table from another."""

    def __init__(
        self, columns: Iterable[str] | None = None, data: Iterable[Any] | None = None, *args: Any, **options: Any
    ) -> None:
        self.columns = [] if columns is None else list(columns)
        self.data = [] if data is None else list(data)

    def add_data(self, *row: Any) -> None:
        self.data.append(list(row))

    def add_column(self, name: str, data: Any, *args: Any, **options: Any) -> None:
        self.columns.append(name)


plot_table = Media
plot = SimpleNamespace(
    **dict.fromkeys(
        ("bar", "confusion_matrix", "histogram", "line", "line_series", "pr_curve", "roc_curve", "scatter"), Media
    )
)


class Artifact:
    """Files under a name; what is added is not stored yet."""

    def __init__(
        self,
        name: str,
        type: str = "",
        description: str | None = None,
        metadata: Any = None,
        *args: Any,
        **options: Any,
    ) -> None:
        self.name = name
        self.type = type
        self.description = description
        self.metadata = {} if metadata is None else metadata
        self.aliases: list[str] = []

    def _ignore(self, *args: Any, **options: Any) -> None:
        """Take what is added, and keep nothing of it."""

    add = add_dir = add_file = add_reference = save = _ignore

    def new_file(self, name: str, mode: str = "x", *args: Any, **options: Any) -> IO[Any]:
        """Return a file to write to that goes nowhere."""
        return open(os.devnull, "wb" if "b" in mode else "w")

    def wait(self, *args: Any, **options: Any) -> Artifact:
        return self

    def download(self, *args: Any, **options: Any) -> str:
        raise UsageError(f"artifact {self.name!r} can't be downloaded: there is no network here")


class Settings:
    """Settings of another client: kept as they are given, and used for nothing."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.__dict__.update(settings)


class AlertLevel(enum.Enum):
    """How urgent an alert is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


def generate_id(length: int = 8) -> str:
    """Return a new run id: *length* of ``a-z 0-9``."""
    number = int.from_bytes(os.urandom(2 * length), "big")  # what is left over makes no letter likelier than another
    return "".join(_LETTERS[number // 36**place % 36] for place in range(length))


util = SimpleNamespace(generate_id=generate_id)

api = SimpleNamespace(api_key="none is needed offline")
"""For code that asks for a key, and logs in where there is none."""


class Extras:
    """What trainers call on a run and is nothing to be recorded."""

    def save(self, *args: Any, **options: Any) -> list[str]:
        """Return [], the files that are stored."""
        self._warn("save", "files that are given to save() are not stored yet")
        return []

    def log_artifact(self, artifact: Any, *args: Any, **options: Any) -> Any:
        """Return *artifact*; it is not stored."""
        self._warn("artifact", "artifacts are not stored yet")
        return artifact

    def use_artifact(self, artifact: Any, *args: Any, **options: Any) -> Any:
        """Return *artifact*, or one of that name; that the run uses it is not recorded."""
        return artifact if isinstance(artifact, Artifact) else Artifact(str(artifact))

    def log_code(self, *args: Any, **options: Any) -> None:
        """Do nothing: sources are not stored."""

    def mark_preempting(self) -> None:
        """Do nothing: a run that goes on is the same run here."""

    def get_url(self) -> None:
        """Return None: the run is nowhere yet."""

    def project_name(self) -> str:
        return str(getattr(self, "project", ""))

    def _warn(self, topic: str, text: str) -> None:
        raise NotImplementedError
