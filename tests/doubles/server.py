"""What both stand-ins share: an HTTP server on port 0 with a record of requests and faults that a test can order."""

from __future__ import annotations

import copy
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request as it arrived; *path* is unquoted and has no query."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer: *body* is sent as JSON unless it is bytes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """
    What happens to the next *times* requests whose label contains *match*, after *skip* of them went by unharmed.

    Attributes:
        status: answer with it, and apply the request only if *applied*.
        drop: close the connection without an answer, ``"before"`` or ``"after"`` the request was applied.
        delay_s: wait so long before anything else.
        hook: call it with the request before anything else, to kill a process at a request boundary.
    """

    match: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    applied: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    drop: Literal["before", "after"] | None = None
    delay_s: float = 0.0
    hook: Callable[[Request], None] | None = None


class Double:
    """
    A stand-in server in threads of this process, on 127.0.0.1 and *port* (0: one that the system chooses).

    Use as a context manager. Subclasses answer in `handle`, which runs under one lock, and name a request in `label`.
    `log` holds the label of every request that arrived, in order. While `shown_until` (unix seconds) is set, a run's
    mark shows nothing that arrived later.
    """

    holds: tuple[str, ...] = ()
    """The attributes that are the service's memory."""

    def __init__(self, *, port: int = 0) -> None:
        self.lock = threading.RLock()
        self.log: list[str] = []
        self._faults: list[Fault] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._sockets: set[socket.socket] = set()
        self._port = port
        self._stopping = threading.Event()
        self.shown_until: float | None = None

    def handle(self, request: Request) -> Reply:
        raise NotImplementedError

    def label(self, request: Request) -> str:
        """Name a request for `fault` and `log`: ``"POST /path"``, and for GraphQL the operation behind it."""
        return f"{request.method} {request.path}"

    def fault(self, match: str, **fault: Any) -> Fault:
        """Order a fault (see `Fault`); faults are used up in the order they were ordered."""
        ordered = Fault(match, **fault)
        with self.lock:
            self._faults.append(ordered)
        return ordered

    def clear_faults(self) -> None:
        with self.lock:
            self._faults.clear()

    @property
    def pending(self) -> list[str]:
        """What the ordered faults that did not happen yet wait for."""
        with self.lock:
            return [fault.match for fault in self._faults if fault.times > 0]

    def state(self) -> Any:
        """Return what the service holds, to be given to `restore`."""
        with self.lock:
            return copy.deepcopy({name: getattr(self, name) for name in self.holds})

    def restore(self, state: Any) -> None:
        """Hold what the service held at an earlier moment."""
        with self.lock:
            vars(self).update(copy.deepcopy(state))

    def _take_fault(self, label: str) -> Fault | None:
        with self.lock:
            self.log.append(label)
            for fault in self._faults:
                if fault.match not in label or fault.times <= 0:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Any:
        self.up()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self.down()

    def up(self) -> None:
        """Listen (again, on the same port as before)."""
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                double._sockets.add(self.connection)

            def finish(self) -> None:
                double._sockets.discard(self.connection)
                super().finish()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                double._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed in mid-request is what these tests are about

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections from now on and cut the open ones; what was applied stays."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        for sock in list(self._sockets):
            _reset(sock)
        if self._thread is not None:
            self._thread.join()
        self._server = self._thread = None

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        if "chunked" in handler.headers.get("Transfer-Encoding", ""):
            body = _read_chunked(handler)
        else:
            body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        url = urlsplit(handler.path)
        headers = {key.lower(): value for key, value in handler.headers.items()}
        request = Request(handler.command, unquote(url.path), parse_qs(url.query), headers, body)
        fault = self._take_fault(self.label(request))
        if fault is not None:
            if fault.hook is not None:
                fault.hook(request)
            if fault.delay_s:
                self._stopping.wait(fault.delay_s)
            if fault.drop == "before":
                return self._drop(handler)
            if fault.status is not None and not fault.applied:
                return _answer(handler, Reply(fault.status, fault.body or {"error": "ordered"}, fault.headers))
        with self.lock:
            reply = self.handle(request)
        if fault is not None and fault.drop == "after":
            return self._drop(handler)
        if fault is not None and fault.status is not None:
            reply = Reply(fault.status, fault.body or {"error": "ordered"}, fault.headers)
        _answer(handler, reply)

    def _drop(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        _reset(handler.connection)


def _read_chunked(handler: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    handler.send_response(reply.status)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
    for key, value in headers.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _reset(sock: socket.socket) -> None:
    """Cut a connection with RST, as a dying host or a balancer does."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already, which is what was wanted


def wait_until(true: Callable[[], Any], timeout_s: float = 30.0, what: str = "it") -> Any:
    """Poll *true* until it returns something true, and return that; AssertionError after *timeout_s*."""
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)
    return value
