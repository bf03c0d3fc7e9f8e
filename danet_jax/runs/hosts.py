"""Exchanges values between the hosts of a run, and makes a host that fails exit without blocking the others."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from danet_jax.errors import InputError

_EXIT_DELAY = 3.0
"""Seconds that the first host waits before it exits, so that other failing hosts can report why: JAX terminates them
when the first host is gone."""


def from_first_host(value: Any) -> Any:
    """Returns the `value` of the first host, which must be representable as JSON. All hosts must call it."""
    return _from_all_hosts(value)[0]


def refuse_differing(facts: Mapping[str, Any], what: str) -> None:
    """Raises InputError on every host, naming the keys, unless `facts` about `what` are equal on all hosts.

    All hosts must call it. The facts are a flat dictionary that can be represented as JSON.
    """
    first, *others = _from_all_hosts(facts)
    for host, other in enumerate(others, start=1):
        keys = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if keys:
            named = "; ".join(
                f"{key} is {first.get(key)!r:.60} on host 0 and {other.get(key)!r:.60} on host {host}"
                for key in keys[:4]
            )
            raise InputError(
                f"the hosts were started with different {what}: {named}; start all of them with the same {what}",
                what=keys[0],
            )


def leave(status: int) -> None:
    """Exits immediately with `status` if this process is one of several hosts; otherwise returns.

    A normal exit would wait for the other hosts, and JAX would print a stack dump after the error message. The other
    hosts notice that this one is gone, and exit too.
    """
    if not jax.distributed.is_initialized():
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if jax.process_index() == 0:
        time.sleep(_EXIT_DELAY)
    os._exit(status)


def _from_all_hosts(value: Any) -> list[Any]:
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(text.size, np.int32))).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(texts[host, :length].tobytes()) for host, length in enumerate(lengths)]
