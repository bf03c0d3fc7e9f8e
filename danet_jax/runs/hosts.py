"""What the hosts of one run tell each other, and what happens when one of them is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from danet_jax.errors import InputError, first_line

HEARTBEAT = 25
"""Seconds without a sign of life after which JAX takes a process for lost; a connection that breaks says so at once."""

_SAYS_ITSELF = 2.0
"""Seconds that a host is given to end by itself, with a line of its own, when another has ended."""


def from_first_host(value: Any) -> Any:
    """What `value` is on the first host, on every host; of JSON. Call it on all of them."""
    return from_all_hosts(value)[0]


def from_all_hosts(value: Any) -> list[Any]:
    """What `value` is on each host, in their order; of JSON. Call it on all of them."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(text.size, np.int32))).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(texts[host, :length].tobytes()) for host, length in enumerate(lengths)]


def refuse_differing(facts: Mapping[str, Any], what: str) -> None:
    """Raises InputError on every host, naming the keys, unless `facts`, flat and of JSON, are the same on all."""
    first, *others = from_all_hosts(facts)
    for host, theirs in enumerate(others, start=1):
        keys = [key for key in sorted(first.keys() | theirs.keys()) if first.get(key) != theirs.get(key)]
        if keys:
            named = "; ".join(
                f"{key} is {first.get(key)!r:.60} on host 0 and {theirs.get(key)!r:.60} on host {host}"
                for key in keys[:4]
            )
            raise InputError(
                f"the hosts were started with different {what}: {named}; start all of them alike"
            )


@contextlib.contextmanager
def watching_each_other() -> Iterator[None]:
    """Within it, a host that dies ends all the others, each with a line that names it.

    Every host holds a connection to the first, which breaks when a process dies and, by TCP's keep-alive, within 20 s
    when its machine does. The first host tells the others.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch.connected()
    _watches.append(watch)
    threading.Thread(target=watch.run, daemon=True, name="hosts").start()
    try:
        yield
    except InputError as error:
        end_others(f"has ended: {error}", 1)
        raise
    except Exception as error:
        time.sleep(2 * _SAYS_ITSELF)  # if it is because a host is lost, this process ends here
        end_others(f"has ended: {first_line(error)}", 1)
        raise
    watch.leave("", 0)


def end_others(reason: str, status: int) -> None:
    """Ends all other hosts with `status` and a line that names this one, which ends alone, and tells the reason."""
    for watch in _watches:
        watch.leave(reason, status)
        if jax.process_index() == 0:
            time.sleep(1.25 * _SAYS_ITSELF)  # with it ends what JAX joined the others by


@dataclasses.dataclass
class _Watch:
    """The connections of this host: of the first host to all others, of another to the first."""

    names: list[str]
    connections: dict[int, socket.socket]
    is_leaving: bool = False

    @classmethod
    def connected(cls) -> _Watch:
        name = socket.gethostname()
        if jax.process_index() == 0:
            listener = socket.create_server(("", 0), backlog=jax.process_count())
            listener.settimeout(120)
            hosts = from_all_hosts({"name": name, "at": [_addresses(name), listener.getsockname()[1]]})
            connections: dict[int, socket.socket] = {}
            with listener:
                while len(connections) < jax.process_count() - 1:
                    connection, _ = listener.accept()
                    connections[int.from_bytes(connection.recv(4), "big")] = connection
        else:
            hosts = from_all_hosts({"name": name})
            addresses, port = hosts[0]["at"]
            if hosts[0]["name"] == name:
                addresses = ["127.0.0.1", *addresses]
            connection = _connect(addresses, port)
            connection.sendall(jax.process_index().to_bytes(4, "big"))
            connections = {0: connection}
        for connection in connections.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return cls([host["name"] for host in hosts], connections)

    def run(self) -> None:
        """Waits for what the others say; ends the process when one is lost."""
        selector = selectors.DefaultSelector()
        for host, connection in self.connections.items():
            selector.register(connection, selectors.EVENT_READ, host)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    said = key.fileobj.recv(65536)  # type: ignore[union-attr]
                except OSError:
                    said = b""
                if not said:
                    self._end(key.data, "is lost (its process or its machine ended)", 1)
                message = json.loads(said.partition(b"\n")[0])
                if message["reason"]:
                    self._end(**message)
                selector.unregister(key.fileobj)

    def leave(self, reason: str, status: int) -> None:
        """Tells the others that this host ends, because of `reason` or, if that is empty, because it is done."""
        self.is_leaving = bool(reason)
        self._say(jax.process_index(), reason, status)

    def _say(self, host: int, reason: str, status: int) -> None:
        message = json.dumps({"host": host, "reason": reason, "status": status}).encode() + b"\n"
        for connection in self.connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(message)

    def _end(self, host: int, reason: str, status: int) -> None:
        if jax.process_index() == 0:
            self._say(host, reason, status)
        time.sleep(_SAYS_ITSELF)
        if self.is_leaving:  # it says itself why
            time.sleep(2 * _SAYS_ITSELF)
        else:
            line = f"host {host} ({self.names[host]}) {reason}"
            print(
                f"run.py: {line}; the same command on all hosts goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
        os._exit(status)


_watches: list[_Watch] = []
"""That of this process, once it was joined to others."""


def _addresses(name: str) -> list[str]:
    """Where other hosts may reach this one."""
    found = [name]
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: which address leads out
        found.append(probe.getsockname()[0])
    return found


def _connect(addresses: list[str], port: int) -> socket.socket:
    for address in dict.fromkeys(addresses):
        with contextlib.suppress(OSError):
            connection = socket.create_connection((address, port), timeout=10)
            connection.settimeout(None)
            return connection
    raise InputError(
        f"the first host cannot be reached at port {port} of {', '.join(addresses)}; open the ports between the hosts"
    )
