"""Run: what training holds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import journal, rank
from .compat import Extras
from .errors import TrackerError
from .eta import Eta
from .journal import CLOSES, EXPLICIT
from .values import Scalar, points, shown, to_json

if TYPE_CHECKING:
    from .console import ConsoleLog
    from .device import DeviceScalars, Pending
    from .store import RunInfo
    from .writer import Writer

logger = logging.getLogger("offline_tracker")

ETA_METRIC = "eta"
_MAX_STEP = 2**48  # SwanLab's bound; W&B would take 2**63

ResumePoints = Sequence[tuple[int, Mapping[str, float], Mapping[str, float]]]


class Config(MutableMapping[str, Any]):
    """A run's config: items, attributes, get, keys, update; every change is stored at once."""

    def __init__(self, values: Mapping[str, Any], changed: Callable[[dict[str, Any]], None], name: str) -> None:
        self.__dict__.update(_values=dict(values), _changed=changed, _name=name, _warned=set())

    def update(self, d: Any = None, /, allow_val_change: bool = False, **more: Any) -> None:
        """
        Set several keys; *d* is a mapping, an argparse.Namespace, or anything with ``__dict__``.

        A key that gets another value than it had is changed, with a warning unless *allow_val_change*: a tracker must
        not stop a training.
        """
        given = {} if d is None else d if isinstance(d, Mapping) else getattr(d, "__dict__", {})
        self._set({str(key): value for key, value in {**given, **more}.items()}, allow_val_change)

    def setdefaults(self, d: Mapping[str, Any]) -> None:
        """Set the keys that are not there yet."""
        self._set({str(key): value for key, value in d.items() if str(key) not in self._values}, True)

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)

    def _set(self, values: dict[str, Any], allow_val_change: bool) -> None:
        fresh = {
            key: value
            for key, value in values.items()
            if key not in self._values or not _same(self._values[key], value)
        }
        for key in fresh:
            if key in self._values and not allow_val_change and key not in self._warned:
                self._warned.add(key)
                old, new = self._values[key], fresh[key]
                logger.warning(
                    "run %s: config %r changes from %r to %r (allow_val_change=True)", self._name, key, old, new
                )
        self._values.update(fresh)
        if fresh:
            self._changed(fresh)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._set({str(key): value}, False)

    def __delitem__(self, key: str) -> None:
        raise TypeError("a config key can't be removed")

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["_values"][key]
        except KeyError:
            raise AttributeError(f"the config has no {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _same(old: Any, new: Any) -> bool:
    return to_json(old) == to_json(new)


class Summary(MutableMapping[str, Any]):
    """A run's summary: the last value of each metric, and what was set by hand, which wins."""

    def __init__(self, changed: Callable[[dict[str, Any]], None]) -> None:
        self.latest: dict[str, Any] = {}
        self._set: dict[str, Any] = {}
        self._changed = changed

    def __getitem__(self, key: str) -> Any:
        return self._set[key] if key in self._set else self.latest[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        del self._set[key]
        self._changed({key: None})

    def update(self, d: Any = (), /, **more: Any) -> None:
        values = {str(key): value for key, value in {**dict(d), **more}.items()}
        self._set.update(values)
        self._changed(values)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.latest, **self._set})

    def __len__(self) -> int:
        return len({**self.latest, **self._set})


class NullRun(Extras):
    """
    A run that writes nothing: what the ranks hold that do not write, and everybody in ``mode="disabled"``.

    It has the whole surface of `Run`, so no caller needs to ask which one it has.

    Args:
        run_id: the id, or what finds it when it is first read (the rank that writes may be slower than this one).
        why: said once, at the first log; None to keep silent.
    """

    resumed = False
    offline = True
    url = None
    entity = ""

    def __init__(
        self, info: RunInfo, runs: Path, why: str | None = None, run_id: Callable[[], str] | None = None
    ) -> None:
        self._info = info
        self._runs = runs
        self._why = why
        self._find_id = run_id
        self._finished = False
        self._warned: set[str] = set()
        self.config = Config(info.config or {}, self._config_changed, info.id)
        self.summary = Summary(self._summary_changed)

    @property
    def id(self) -> str:
        """The run's id, a plain str: checkpoints are loaded with weights_only=True."""
        if self._find_id is not None:
            self._info = replace(self._info, id=self._find_id())
            self._find_id = None
        return self._info.id

    @property
    def finished(self) -> bool:
        """Whether finish() was called; the run itself may go on with another `init`."""
        return self._finished

    @property
    def inherited(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return False

    @property
    def name(self) -> str:
        return self._info.name or self._info.id

    @name.setter
    def name(self, name: str) -> None:
        self._change(name=str(name))

    @property
    def project(self) -> str:
        return self._info.project or ""

    @property
    def group(self) -> str:
        return self._info.group or ""

    @property
    def job_type(self) -> str:
        return self._info.job_type or ""

    @property
    def tags(self) -> tuple[str, ...]:
        return self._info.tags

    @tags.setter
    def tags(self, tags: Sequence[str]) -> None:
        self._change(tags=tuple(str(tag) for tag in tags))

    @property
    def notes(self) -> str:
        return self._info.notes or ""

    @notes.setter
    def notes(self, notes: str) -> None:
        self._change(notes=str(notes))

    @property
    def step(self) -> int:
        return 0

    @property
    def dir(self) -> str:
        """The folder for files that belong to the run."""
        return str(self._runs / self._info.id / "files")

    @property
    def path(self) -> str:
        return "/".join(part for part in (self.entity, self.project, self._info.id) if part)

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, **ignored: Any) -> None:
        if self._why is not None:
            self._warn("null", self._why)

    def mark_checkpoint(self, name: str | None = None) -> None:
        """Say that a checkpoint is being saved that holds all that was logged until now."""

    def define_metric(self, name: str, **options: Any) -> None:
        """Store how a metric is meant (step_metric, summary, goal, hidden...); *name* may be a glob."""

    def alert(self, title: str, text: str = "", level: Any = "INFO", **ignored: Any) -> None:
        """Store an alert; it is delivered when the run is synced."""

    def flush(self, timeout_s: float = 60.0) -> None:
        """Return once every call so far is in run.db."""

    def finish(self, exit_code: int | None = None, **ignored: Any) -> None:
        """End this attempt. A run can go on afterwards; calling it twice is fine."""
        self._finished = True

    def watch(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing but say so, once: gradients are not recorded."""
        self._warn("watch", "watch() records nothing here")

    unwatch = watch

    def _label(self, *args: Any, **kwargs: Any) -> None:
        """What transformers calls; nothing to do."""

    def _change(self, **fields: Any) -> None:
        self._info = replace(self._info, **fields)

    def _config_changed(self, values: dict[str, Any]) -> None:
        pass

    def _summary_changed(self, values: dict[str, Any]) -> None:
        pass

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning("run %s: %s", self._info.id, text)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        code = error.code if isinstance(error, SystemExit) else None if error is None else 1
        self.finish(exit_code=code if isinstance(code, int) else int(code is not None))


class Run(NullRun):
    """
    A run that is being written. Made by `init`; every method may be called from any thread.

    Attributes:
        at_end: called when the attempt ends, while there can still be something put on record.

    Args:
        last_seq: number of the run's newest call.
        last_step: step that the newest of its rows has, None if there is none.
        resume_points: see `RunStore.resume_points`; the places from which the trainer may go on.
        resume_hint: what to say if none of them is proven, or None.
        started_at: unix seconds.
        closed: called when all is written and the files are closed.
        console: what alerts, and if it is asked for all that is printed, are written to.
    """

    def __init__(
        self,
        info: RunInfo,
        runs: Path,
        writer: Writer,
        *,
        started_at: float,
        last_seq: int = 0,
        last_step: int | None = None,
        resume_points: ResumePoints = (),
        resume_hint: str | None = None,
        rank_given: int | None = None,
        closed: Callable[[], object] | None = None,
        console: ConsoleLog | None = None,
    ) -> None:
        super().__init__(info, runs)
        self._console = console
        self._closed = closed
        self.at_end: list[Callable[[], object]] = [console.close] if console is not None else []
        self.entity = info.entity or ""
        self.resumed = last_seq > 0
        self._writer = writer
        self._lock = writer.lock
        self._pid = os.getpid()
        self._open = True
        self._seq = last_seq
        self._last_step = -1 if last_step is None else last_step
        self._step = self._last_step + 1
        self._points_to_resume = resume_points
        self._resume_hint = resume_hint
        self._started_at = started_at
        self._eta: Eta | None = None
        self._eta_step = -1
        self._rank_given = rank_given
        self._logged = False
        self._ready = False  # to log without any question: it has begun, is open, and belongs to this process
        self._marked_seq = 0
        self._device: DeviceScalars | None = None
        writer.arrived = self.summary.latest.update

    @property
    def id(self) -> str:
        """
        The run's id, a plain str.

        Reading it leaves a mark: it is what trainers do when they save a checkpoint. Not before the first log, though:
        who prints the id after init has saved nothing yet.
        """
        self.mark_checkpoint()
        return self._info.id

    @property
    def step(self) -> int:
        """The step of the row that is open, or that the next call begins."""
        return self._step

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, **ignored: Any) -> None:
        """
        Record one call; on return it outlives the process, whatever ends it.

        Never raises, never waits for a disk's flush, a lock or a network. A value that can't be recorded costs a
        warning, the rest of the call is kept.

        Args:
            data: metric to value: numbers, 0-d tensors, texts, bools, None, nested dicts.
            step: the row this belongs to; calls with the same step are one row. Without it each call is a row.
            commit: False: more of this row is to come. True: nothing more of it comes.
        """
        try:
            self._log(data, step, commit)
        except Exception as error:  # whatever a caller's own classes do, training goes on
            self._warn("log", f"a call was not logged: {type(error).__name__}: {shown(error, str)}")

    def _log(self, data: Any, step: Any, commit: bool | None) -> None:
        if not self._ready and not self._may_log():
            return
        if type(data) is not dict and not isinstance(data, Mapping):
            return self._warn("data", f"log() takes a dict, not {type(data).__name__}; the call is not logged")
        late: dict[str, Any] = {}
        values = points(data, self._warn, late)
        given = None
        if step is None:
            closes = commit is not False
            flags = CLOSES if closes else 0
        else:
            given = step if type(step) is int else _whole(step)
            if not 0 <= given <= _MAX_STEP:
                return self._warn("range", f"step {given} is not within 0 and 2**48; the call is not logged")
            closes = commit is True
            flags = CLOSES | EXPLICIT if closes else EXPLICIT
        with self._lock:
            if not self._ready and not self._begin(values, given):
                return
            pending = self._send(late, values) if late else ()
            now = time.time()
            # A signal handler that logs may come in wherever something is called. So nothing is, from where the step is
            # looked at to where it is moved on.
            row = self._step if given is None else given
            if row < self._step:
                text = f"step {row} is behind step {self._step}, its calls are dropped: steps must not fall"
                return self._warn("step", text)
            self._seq = seq = self._seq + 1
            self._step = row + 1 if closes else row
            if self._eta is not None and row != self._eta_step and ETA_METRIC not in values:
                self._eta_step = row
                left = self._eta.update(row if given is not None else row + 1, now)
                if left is not None:
                    values[ETA_METRIC] = left
            if pending:
                self._writer.put_late((seq, row, now, flags, values), pending)
                values = {name: value for name, value in values.items() if name not in late}
            else:
                self._writer.put(journal.CALL, seq, row, now, flags, values)
        self.summary.latest.update(values)

    def _may_log(self) -> bool:
        """Whether a call is to be recorded; asked until the first one was, and when the run is closed."""
        if not self._open and not self._finished:
            return False  # `_disown` has said why
        if not self._open or os.getpid() != self._pid:
            where = "this is a forked child; log in the process that called init" if self._open else "it has finished"
            self._warn("closed", f"log() does nothing: {where}")
            return False
        if not self._logged and not rank.writes(self._rank_given):
            self._disown()
            return False
        return True

    def _send(self, late: dict[str, Any], values: dict[str, Scalar]) -> Sequence[Pending]:
        """Begin to fetch scalars from their devices; those that can't be are taken out of *values*."""
        try:
            if self._device is None:
                from .device import DeviceScalars

                self._device = DeviceScalars()
            return self._device.send(late)
        except Exception as error:  # torch's, of any class
            names = ", ".join(late)
            self._warn("device", f"{names}: a value on a device is not logged: {shown(error, str)}")
            for name in late:
                del values[name]
            return ()

    def _disown(self) -> None:
        """End what init() began: torch.distributed was initialised after it, and says that another rank writes."""
        self._warn("rank", "another rank writes this run; nothing is logged here")
        self.discard(remove=True)

    def _begin(self, values: Mapping[str, Scalar], step: int | None) -> bool:
        """At an attempt's first call find out where it goes on from; False if another thread has ended the run."""
        if self._finished:
            self._warn("closed", "log() does nothing: it has finished")
            return False
        if self._logged:
            return True
        start: int | None = self._step
        if step is not None:
            if self.resumed:
                start = None  # the checkpoint lies somewhere before the first logged step
            if step <= self._last_step:
                self._rewind(step - 1, "the first logged step")
                self._step = step
        elif self.resumed:
            proof = _proven(values, self._points_to_resume)
            if proof is not None and proof[0] < self._last_step:
                self._rewind(*proof)
                start = self._step = proof[0] + 1
            elif proof is None and self._resume_hint is not None:
                logger.info("run %s: %s", self._info.id, self._resume_hint)
        if self._info.total_steps:
            self._eta = Eta(self._info.total_steps, start, self._started_at)
        self._logged = self._ready = True
        return True

    def _rewind(self, step: int, reason: str) -> None:
        dead = f"its steps {step + 1} to {self._last_step} are superseded"
        logger.info("run %s goes on behind step %d (%s); %s", self._info.id, step, reason, dead)
        self._writer.put(journal.REWIND, self._seq, step, time.time(), reason)

    def mark_checkpoint(self, name: str | None = None) -> None:
        if not (self._open and self._logged) or os.getpid() != self._pid:
            return
        with self._lock:
            if name is not None or self._marked_seq != self._seq:
                self._marked_seq = self._seq
                self._writer.put(journal.MARK, self._seq, time.time(), None if name is None else str(name))

    def define_metric(self, name: str, **options: Any) -> None:
        self._put(
            journal.DEFINE, str(name), to_json({key: value for key, value in options.items() if value is not None})
        )

    def alert(self, title: str, text: str = "", level: Any = "INFO", **ignored: Any) -> None:
        level = str(getattr(level, "value", level))
        self._put(journal.ALERT, time.time(), self._seq, str(title), str(text), level)
        if self._console is not None:
            self._console.alert(level, str(title), str(text))

    def keep_console(self) -> None:
        """Record what this process prints, until the attempt ends."""
        from .console import Tee

        if self._console is not None:
            self.at_end.append(Tee(self._console).close)

    def sample(self, values: Mapping[str, float]) -> None:
        """Record what the hardware does; as `learn`, only once there is something else on record."""
        self._put_aside(journal.SAMPLE, time.time(), dict(values))

    def learn(self, facts: Mapping[str, Any]) -> None:
        """Record facts of the machine that took time to find out."""
        self._put_aside(journal.FACTS, {name: to_json(value) for name, value in facts.items()})

    def _put_aside(self, kind: int, *fields: object) -> None:
        with self._lock:  # what comes on a thread of its own must not come behind the end
            if not self._writer.unused:
                self._put(kind, *fields)

    def take_over(self, info: RunInfo) -> None:
        """Bring what this attempt's init() said into a run that was there before."""
        if info.config:
            self.config.update(info.config)
        changes = {
            name: getattr(info, name)
            for name in ("project", "name", "entity", "group", "job_type", "notes", "tags", "total_steps")
            if getattr(info, name) and getattr(info, name) != getattr(self._info, name)
        }
        if changes:
            self._change(**changes)

    def rewind_to(self, step: int) -> None:
        """Go on behind *step*, before this attempt's first call."""
        with self._lock:
            if step < self._last_step:
                self._rewind(step, "resume_from")
                self._last_step, self._step = step, step + 1

    def copy_rows(self, rows: Iterable[Any]) -> None:
        """Begin with rows of another run, with their steps and times."""
        with self._lock:
            for row in rows:
                self._seq += 1
                self._last_step = row.step
                self._step = row.step + 1
                self._writer.put(journal.CALL, self._seq, row.step, row.time, EXPLICIT | CLOSES, dict(row.values))

    def flush(self, timeout_s: float = 60.0) -> None:
        """
        Return once every call so far is in run.db. Not needed for safety, only for who reads the file.

        Raises:
            StoreError: it could not be written in time; the calls are still in the journal.
        """
        if os.getpid() == self._pid:
            self._writer.flush(timeout_s)

    def finish(self, exit_code: int | None = None, **ignored: Any) -> None:
        if os.getpid() != self._pid:
            return
        self._finished = True
        self._end_all()
        failed = bool(ignored.get("error")) or ignored.get("state") in ("crashed", "failed", "aborted")
        code = int(failed) if exit_code is None else int(exit_code)
        with self._lock:
            if not self._open:
                return
            self._open = self._ready = False  # first: no call may come behind the end
            stub = self.resumed and self._writer.unused  # a finished training that was started again
            if not stub:
                self._writer.put(journal.END, time.time(), code)
        if stub:
            self.discard(remove=False)
        elif self._writer.close() and self._closed is not None:
            self._closed()

    def discard(self, remove: bool) -> None:
        """End an attempt that put nothing on record, as if it had not been; with *remove* the run too, if it is new."""
        self._end_all()
        self._open = self._ready = False
        store = self._writer.abandon()
        try:
            if not self.resumed and remove:
                store.remove()
            else:
                store.drop_attempt(self._writer.attempt)
        except (OSError, TrackerError) as error:
            logger.warning("run %s: %s", self._info.id, error)
        finally:
            store.close()

    def _end_all(self) -> None:
        ends, self.at_end = self.at_end, []
        for end in reversed(ends):
            try:
                end()
            except Exception as error:
                self._warn("end", f"{type(error).__name__}: {error}")

    @property
    def inherited(self) -> bool:
        return os.getpid() != self._pid

    def forks(self) -> None:
        """Called before a fork; behind it `forked` is called, in the parent and in the child."""
        self._writer.pause()

    def forked(self, child: bool) -> None:
        """Called after a fork; a child never writes."""
        self._writer.go_on()
        if child:
            self._ready = False
            self._writer.forget()

    def _config_changed(self, values: dict[str, Any]) -> None:
        self._put(journal.CONFIG, {key: to_json(value) for key, value in values.items()})

    def _summary_changed(self, values: dict[str, Any]) -> None:
        self._put(journal.SUMMARY, {key: None if value is None else to_json(value) for key, value in values.items()})

    def _put(self, kind: int, *fields: object) -> None:
        if self._open and os.getpid() == self._pid:
            self._writer.put(kind, *fields)

    def _change(self, **fields: Any) -> None:
        super()._change(**fields)
        self._put(journal.META, {key: to_json(value) for key, value in fields.items()})


def _proven(values: Mapping[str, Scalar], resume_points: ResumePoints) -> tuple[int, str] | None:
    """
    Return the step from which a resumed run goes on, and the proof, or None if its first call proves nothing.

    The proof is a float that is bit-equal to one of the call behind a mark and occurs there only once: the learning rate
    of a schedule, or a loss that is computed again. Floats that are whole numbers (minutes, counts) come again by chance, so
    they count only where no other float of the two calls disagrees.
    """
    for step, following, once in resume_points:
        same = [name for name, value in once.items() if value == values.get(name) and type(values[name]) is float]
        whole = [name for name in same if once[name].is_integer()]
        if same and len(whole) == len(same):
            others = [
                name for name in following if type(values.get(name)) is float and not following[name].is_integer()
            ]
            if any(following[name] != values[name] for name in others):
                continue
        if same:
            return step, f"{same[0]} is again {once[same[0]]!r}"
    return None


def _whole(step: Any) -> int:
    whole = int(step)
    if whole != step:
        raise TypeError(f"step {step!r} is not a whole number")
    return whole
