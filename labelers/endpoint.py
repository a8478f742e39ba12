"""JSON over HTTP to one address that was checked: no redirects, no proxies, time limits that hold, retries, and errors that quote nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import random
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from labelers.errors import UsageError
from labelers.hosts import allowed_addresses
from labelers.run import Stopped

__all__ = ["Endpoint", "Failure", "in_threads"]

T = TypeVar("T")
Q = TypeVar("Q")

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second attempt, doubled before each further one; and the most, whatever the server asks for."""
CONNECT = 10.0
"""Seconds that a connection may take at the most."""
LARGEST = 1 << 25
"""Bytes of an answer at the most."""
LOST = 20
"""Questions in a row that a server which did answer turns away before it is given up."""
_AGAIN = {408, 409, 425, 429}
_HOPELESS = {
    401: "refuses access (HTTP 401); give its key in the environment",
    403: "refuses access (HTTP 403); give its key in the environment",
    404: "does not know the address or the model (HTTP 404); expected url=http://HOST:PORT/v1 and a model that it serves",
    405: "takes no questions at this address (HTTP 405); expected url=http://HOST:PORT/v1",
}


class Failure(Exception):
    """One question that was not answered.

    Attributes:
        reason: Why, in words of ours.
        again: Whether another attempt may help.
        after: Seconds that the server asks to wait before it.
        hopeless: What to tell the user where it is no matter of this question: every other would fail likewise.
    """

    def __init__(self, reason: str, again: bool = True, after: float = 0.0, hopeless: str = "") -> None:
        super().__init__(reason)
        self.reason, self.again, self.after, self.hopeless = reason, again, after, hopeless


class Endpoint:
    """One address for questions; safe to be used by many threads."""

    def __init__(
        self, url: str, path: str, *, timeout: float, retries: int, allowed: Collection[str] = (), key: str | None = None
    ) -> None:
        """Check the address; nothing is sent yet.

        Args:
            url: ``http://HOST[:PORT]/...`` or https.
            path: What is added to it.
            timeout: Seconds that one attempt may take from its first byte to its last.
            retries: How many attempts follow a failed one.
            allowed: Hosts outside loopback and private ranges that may be asked.
            key: Sent as a bearer token.

        Raises:
            UsageError: The URL cannot be used, or its host is outside loopback and private ranges and not allowed.
        """
        self._tls, self._host, self._port, base = _split(url)
        self.shown = f"{'https' if self._tls else 'http'}://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"
        self._addresses = allowed_addresses(self._host, self._port, allowed, "--set allow_host=")
        self._context = ssl.create_default_context() if self._tls else None
        self._path = base.rstrip("/") + path
        self._timeout, self._retries = timeout, retries
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._answered, self._lost = False, 0

    def ask(self, question: Callable[[int], Mapping[str, Any]], read: Callable[[Any], T]) -> T:
        """Ask until the answer can be read.

        Args:
            question: Attempt, from 0, to the JSON object to be sent.
            read: The JSON that came to what it means; raises ``Failure`` where it is not what was asked for.

        Raises:
            Failure: No attempt was answered.
            Stopped: No question will be.
        """
        stopped = self._stopped
        for attempt in range(self._retries + 1):
            try:
                value = read(self._once(json.dumps(question(attempt)).encode(), stopped))
            except Failure as failure:
                if failure.again and attempt < self._retries and not stopped.is_set():
                    wait = FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)  # many threads shall not come back at once
                    stopped.wait(min(LONGEST_WAIT, max(wait, failure.after)))
                    continue
                self._count(failure.hopeless)
                raise
            self._count("")
            return value
        raise AssertionError("the last attempt returns or raises")

    def stop(self) -> None:
        """End every question that is being asked in another thread, and every connection; later questions can be asked."""
        with self._lock:
            self._stopped.set()
            self._stopped = threading.Event()
            asked, idle = list(self._open), self._idle
            self._idle = []
        for connection in asked:
            connection.abort()
        for connection in idle:
            connection.close()

    def _count(self, hopeless: str) -> None:
        with self._lock:
            self._answered |= not hopeless
            self._lost = self._lost + 1 if hopeless else 0
            give_up = bool(hopeless) and (not self._answered or self._lost >= LOST)
        if give_up:
            raise Stopped(f"the server at {self.shown} {hopeless}")

    def _once(self, body: bytes, stopped: threading.Event) -> Any:
        """Send one request; a kept connection that the server has closed meanwhile is no failure of that."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            with contextlib.suppress(_Stale):
                return self._exchange(kept, body, stopped, fresh=False)
        connection = _Connection(self._host, self._port, self._addresses, self._context, min(self._timeout, CONNECT))
        try:
            connection.connect()
        except ssl.SSLError:
            connection.close()
            raise Failure(
                "no trusted connection",
                again=False,
                hopeless="has no certificate that this machine trusts for that name; correct the url, or name its authority in SSL_CERT_FILE",
            ) from None
        except OSError as error:
            connection.close()
            why = error.strerror or type(error).__name__
            raise Failure("not reached", hopeless=f"cannot be reached ({why}); start it, or correct the url") from None
        return self._exchange(connection, body, stopped, fresh=True)

    def _exchange(self, connection: _Connection, body: bytes, stopped: threading.Event, fresh: bool) -> Any:
        with self._lock:
            self._open.add(connection)
            if stopped.is_set():  # after stop() has looked at what is open
                connection.abort()
        late = threading.Event()

        def end() -> None:
            late.set()
            connection.abort()

        timer = threading.Timer(self._timeout, end)  # a socket's own time limit starts anew with every byte
        timer.daemon = True
        timer.start()
        kept = False
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            data = response.read(LARGEST + 1)
            if late.is_set():
                raise Failure("no answer in time")
            _check_status(response.status, response.getheader("Retry-After"))
            if len(data) > LARGEST:
                raise Failure("answer too large")
            kept = response.isclosed() and not response.will_close
        except (OSError, http.client.HTTPException, ValueError) as error:  # their messages may hold what the server sent
            if late.is_set():
                raise Failure("no answer in time") from None
            if not fresh and isinstance(error, ConnectionError):
                raise _Stale from None
            raise Failure("connection lost" if isinstance(error, OSError) else "broken answer") from None
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(connection)
                if kept:
                    self._idle.append(connection)
            if not kept:
                connection.close()
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Failure("broken answer") from None


class _Stale(Exception):
    """A connection that was kept open is no longer."""


def _split(url: str) -> tuple[bool, str, int, str]:
    """Return (TLS, host, port, path); the URL is not repeated where it may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("--set url: not a URL; expected one such as http://127.0.0.1:8000/v1") from None
    if "@" in parts.netloc:
        raise UsageError("--set url: expected no name or password in it; give a key in the environment")
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(
            f"--set url: expected http://HOST:PORT/v1 or https, with neither ? nor #, got {re.split('[?#]', url)[0]!r} as its "
            "beginning; give the address of the server"
        )
    tls = parts.scheme == "https"
    return tls, host, port or (443 if tls else 80), parts.path


def _check_status(status: int, retry_after: str | None) -> None:
    if 200 <= status < 300:
        return
    if status in _HOPELESS:
        raise Failure(f"HTTP {status}", again=False, hopeless=_HOPELESS[status])
    if status < 400:
        hopeless = f"answers with a redirect (HTTP {status}), which is not followed; give the address that answers itself"
        raise Failure(f"HTTP {status}", again=False, hopeless=hopeless)
    after = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
    raise Failure(f"HTTP {status}", again=status in _AGAIN or status >= 500, after=after)


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that were looked up before; the name stands in the Host header and is what a certificate must bear."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], tls: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._addresses, self._tls, self._limit = addresses, tls, timeout
        if tls is not None:
            self.default_port = 443

    def connect(self) -> None:
        for n, address in enumerate(self._addresses, start=1):
            try:
                self.sock = socket.create_connection((address, self.port), self._limit)
                break
            except OSError:
                if n == len(self._addresses):
                    raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
        self.sock.settimeout(None)  # the request's own limit holds from here on

    def abort(self) -> None:
        """End what another thread waits for."""
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def in_threads(function: Callable[[Q], T], questions: Sequence[Q], threads: int, stop: Callable[[], None]) -> list[T]:
    """Return ``function`` of each question, in their order; the first error ends the others.

    Args:
        function: Called in other threads.
        questions: Its arguments.
        threads: How many are under way at the same time.
        stop: Called at the end, also that of an error or Ctrl-C; ends what is under way.
    """
    waiting: queue.SimpleQueue[tuple[int, Q]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
    for numbered in enumerate(questions):
        waiting.put(numbered)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                number, question = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, function(question), None))
            except BaseException as error:
                ended.set()
                done.put((number, None, error))

    for _ in range(min(threads, len(questions))):
        threading.Thread(target=work, daemon=True).start()  # a daemon: the program's end waits for none of them
    values: dict[int, Any] = {}
    try:
        for _ in questions:
            number, value, error = done.get()
            if error is not None:
                raise error
            values[number] = value
    finally:
        ended.set()
        stop()
    return [values[number] for number in range(len(questions))]
