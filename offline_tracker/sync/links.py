"""The links of a runs folder, and mending them by hand: which remote run belongs to which local one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RemoteRefused, RunNotFound, UsageError
from ..host import Holder
from ..store import Runs
from .ledger import Ledger, Link, read_links
from .remotes import Target, create


def links(runs: str | os.PathLike[str]) -> list[Link]:
    """
    Return all links, by run and remote; [] where nothing was ever synced. Makes and changes nothing.

    Raises:
        StoreError: there is a ledger, and it can't be read.
    """
    return read_links(Path(runs))


def forget(runs: str | os.PathLike[str], run_id: str, remote: str | None = None) -> list[Link]:
    """
    Forget a run's link to a remote, or with None to all, and return what was forgotten; the remote run stays as it is.

    Raises:
        RunNotFound: no such run is linked there.
        RunBusy: it is being synced.
        StoreError: the ledger can't be written.
    """
    with Ledger(Path(runs)) as ledger:
        known = [link for link in ledger.links() if link.run == run_id and remote in (None, link.remote)]
        if not known:
            raise RunNotFound(run_id, Path(runs), hint=f" that is linked to {remote or 'a remote'}")
        for link in known:
            with _held(ledger, link.uuid, run_id):
                ledger.forget(link)
    return known


def relink(runs: str | os.PathLike[str], run_id: str, remote: str, path: str) -> tuple[Link, bool]:
    """
    Link a run to a remote run that is there, in the place of the link that it has, and return whether that one is ours.

    A remote run that does not carry the local run's uuid is taken only by a sync with *adopt*.

    Args:
        path: ``ENTITY/PROJECT/ID``.

    Raises:
        UsageError: *path* is no such path, or there are no credentials.
        RunNotFound, RunBusy, StoreError, RemoteError: nothing was changed.
    """
    parts = path.split("/")
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"{path!r} is no remote run; use ENTITY/PROJECT/ID")
    entity, project, remote_id = parts
    home = Runs(runs)
    with home.read(home.find(run_id)) as reader:
        info = reader.info
    service = create(remote)
    service.connect()
    target = Target(project, entity, remote_id)
    service.check(target)
    with Ledger(home.path) as ledger, _held(ledger, info.uuid, info.id):
        found = service.look(target)
        if found is None:
            raise RemoteRefused(f"{remote} has no run {path} that this account can see")
        link = Link(info.uuid, remote, service.server, info.id, project, entity, remote_id, found.url, time.time())
        ledger.forget(link)
        return ledger.save(link), found.uuid == info.uuid


@contextmanager
def _held(ledger: Ledger, uuid: str, run_id: str) -> Iterator[None]:
    with ledger.lease(uuid, run_id, Holder.current()) as children:
        if children:
            create(children["remote"]).clean(children)
        yield
