"""
wandb's own uploader, for any number of runs: what ``wandb beta sync`` does with one list of files, as orders come in.

Run in a process of its own and in a private folder, for what is killed with it: wandb-core ends with this process, and this
process ends with its standard input, that is when whoever started it dies, however that was. It knows nothing of ours.

Orders, one JSON object a line: ``{"upload": N, "path": FILE, "live": bool, "program": NAME, "interval_s": seconds,
"goes_on": bool}`` and
``{"cancel": N}``. What it says: ``{"ready": true}``, then ``{"upload": N, "said": [...], "stuck": text or null}`` whenever
there is something new, at the end with ``"done": true``; after that nothing of that upload is sent any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

_POLL_S = (0.02, 0.3)
_GONE = ("error: HandleAbandonedError", "error: MailboxClosedError")
_OUT = sys.stdout


class _Uploads:
    def __init__(self) -> None:
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth

        singleton = wandb_setup.singleton()
        self._settings, self._asyncer = singleton.settings, singleton.asyncer
        if not wbauth.authenticate_session(host=self._settings.base_url, source="offline_tracker", no_offline=True):
            raise SystemExit("not logged in")
        self._service = singleton.ensure_service()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def order(self, order: dict[str, Any]) -> None:
        async def obey() -> None:
            if "cancel" in order:
                if (task := self._tasks.get(order["cancel"])) is not None:
                    task.cancel()
            else:
                self._tasks[order["upload"]] = asyncio.ensure_future(self._upload(order))

        self._asyncer.run(obey)

    async def _upload(self, order: dict[str, Any]) -> None:
        number: int = order["upload"]
        said: list[str] = []
        try:
            said = await self._sync(order)
        except asyncio.CancelledError:
            said = ["cancelled"]
        except Exception as error:
            said = [f"error: {type(error).__name__}: {error}"]
        finally:
            del self._tasks[number]
            _say({"upload": number, "said": said, "stuck": None, "done": True})
            if said[:1] and said[0].startswith(_GONE):
                os._exit(4)  # wandb-core has ended: whoever has more to send needs another one

    async def _sync(self, order: dict[str, Any]) -> list[str]:
        path = Path(order["path"])
        settings = self._settings.model_copy()
        settings.program = order["program"]
        settings.root_dir = str(path.parent)  # of its log
        if order["goes_on"]:
            settings.resume = "allow"  # else samples and lines of the console would begin again at number 0 there
            settings.console = (
                "off"  # the file's lines go all the same, without a file there that holds only the last ones
            )
        settings.x_file_stream_transmit_interval = order["interval_s"]
        begun = await self._service.init_sync(
            {path},
            settings,
            cwd=None,
            live=order["live"],
            entity="",
            project="",
            run_id="",
            job_type="",
            tag_replacements={},
        )
        found = await begun.wait_async(timeout=30)
        handle = await self._service.sync(found.id, parallelism=1)
        waiting = asyncio.ensure_future(handle.wait_async(timeout=None))
        last: tuple[list[str], str | None] = ([], None)
        poll_s = _POLL_S[0]
        try:
            while not (await asyncio.wait({waiting}, timeout=poll_s))[0]:
                poll_s = min(2 * poll_s, _POLL_S[1])
                status = await self._status(found.id)
                stuck = [each.error_status for stats in status.stats for each in stats.operations if each.error_status]
                now = (_words(status.new_messages), stuck[0] if stuck else None)
                if now[0] or now[1] != last[1]:
                    _say({"upload": order["upload"], "said": now[0], "stuck": now[1]})
                last = now
            return _words(waiting.result().messages)
        except asyncio.CancelledError:
            waiting.cancel()  # which asks wandb-core to stop
            while (await self._status(found.id)).stats:
                await asyncio.sleep(0.01)
            raise

    async def _status(self, sync_id: str) -> Any:
        asked = await self._service.sync_status(sync_id)
        return await asked.wait_async(timeout=30)


def _words(messages: Any) -> list[str]:
    from wandb.proto.wandb_sync_pb2 import ServerSyncMessage

    bad = ServerSyncMessage.SEVERITY_ERROR
    return [f"ERROR {message.content}" if message.severity == bad else message.content for message in messages]


def _say(what: dict[str, Any]) -> None:
    _OUT.write(json.dumps(what) + "\n")
    _OUT.flush()


def main() -> None:
    uploads = _Uploads()
    _say({"ready": True})
    for line in sys.stdin:
        uploads.order(json.loads(line))


def _end_with_input() -> None:
    """End at once when there is no more input, also while wandb is only being loaded."""
    source, target = os.pipe()
    orders = os.dup(0)
    os.dup2(source, 0)

    def copy() -> None:
        while data := os.read(orders, 65536):
            os.write(target, data)
        os._exit(0)

    threading.Thread(target=copy, daemon=True).start()


if __name__ == "__main__":
    # What wandb prints is for whoever reads our standard error; the answers alone go to standard output.
    _OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _end_with_input()
    main()
