"""From the local store to a remote: plan, ship, confirm, ledger."""

from .engine import SyncResult, sync
from .verify import Verification, verify

__all__ = ["SyncResult", "Verification", "sync", "verify"]
