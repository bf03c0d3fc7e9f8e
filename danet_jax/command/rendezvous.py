"""Before JAX joins the hosts that were named by hand: who is there, and who is missing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from danet_jax.errors import InputError


def options(coordinator: str, processes: int, process: int) -> dict[str, Any]:
    """The flags as arguments of `jax.distributed.initialize`. Raises InputError if they make no sense."""
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"--coordinator={coordinator} must be HOST:PORT of the first host")
    if processes < 1:
        raise InputError(f"--coordinator needs --processes, how many hosts there are, not {processes}")
    if not 0 <= process < processes:
        raise InputError(f"--process={process} must be from 0 to {processes - 1}, one less than --processes")
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def meet(coordinator_address: str, num_processes: int, process_id: int, timeout: int) -> None:
    """Waits until all hosts are there; the first listens at the coordinator's port, which JAX takes afterwards.

    Raises:
      InputError: not all came within `timeout` seconds; the message says who is missing.
    """
    host, _, port = coordinator_address.rpartition(":")
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _wait_for_all(int(port), num_processes, deadline, timeout)
    else:
        _report((host.strip("[]"), int(port)), num_processes, process_id, deadline, timeout)


def _wait_for_all(port: int, processes: int, deadline: float, timeout: int) -> None:
    there: dict[int, socket.socket] = {}
    try:
        listener = socket.create_server(("", port), backlog=processes, reuse_port=False)
    except OSError as error:
        raise InputError(f"--coordinator: port {port} cannot be listened to: {error.strerror}") from error
    with listener:
        while len(there) < processes - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            with contextlib.suppress(OSError, ValueError):
                connection, _ = listener.accept()
                connection.settimeout(5)
                number, count = json.loads(connection.recv(100))
                problem = ""
                if count != processes:
                    problem = f"--processes={count} on host {number}, but {processes} on host 0"
                elif number in there:
                    problem = f"--process={number} was given to two hosts"
                if problem:
                    _answer([connection, *there.values()], problem)
                    raise InputError(f"{problem}; start all of them alike")
                there[number] = connection
    missing = [str(number) for number in range(1, processes) if number not in there]
    problem = _missing(missing, processes, timeout) if missing else ""
    _answer(list(there.values()), problem)
    if problem:
        raise InputError(problem)


def _missing(missing: list[str], processes: int, timeout: int) -> str:
    return (
        f"of {processes} hosts {', '.join(missing)} did not join within {timeout} s (--join_timeout); "
        "start the same command there, too, and then on all"
    )


def _answer(connections: list[socket.socket], problem: str) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(problem).encode())
            connection.settimeout(2)
            connection.recv(1)  # it closes first, so that the port is free
        connection.close()


def _report(address: tuple[str, int], processes: int, process: int, deadline: float, timeout: int) -> None:
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(5.0, left)) as connection:
                connection.sendall(json.dumps([process, processes]).encode())
                connection.settimeout(max(0.1, deadline + 5 - time.monotonic()))
                answer = connection.recv(65536)
        except OSError:
            answer = b""
        if answer:
            if problem := json.loads(answer):
                raise InputError(problem)
            return
        time.sleep(0.2)
    raise InputError(_missing(["0"], processes, timeout))
