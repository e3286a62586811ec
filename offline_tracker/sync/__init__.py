"""From the local store to a remote: plan, ship, confirm, ledger."""

from .engine import SyncResult, sync
from .watching import watch

__all__ = ["SyncResult", "sync", "watch"]
