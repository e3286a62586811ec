"""From the local store to a remote: plan, ship, confirm, ledger."""

from .engine import SyncResult, sync

__all__ = ["SyncResult", "sync"]
