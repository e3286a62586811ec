"""From the local store to a remote: plan, ship, confirm, ledger."""

from .engine import SyncResult, sync
from .verify import Verification, verify
from .watching import watch

__all__ = ["SyncResult", "Verification", "sync", "verify", "watch"]
