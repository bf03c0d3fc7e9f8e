"""Several hosts as one machine."""

from __future__ import annotations

import jax

from danet_jax.errors import InputError


def join_hosts() -> None:
    """Waits for the other hosts of the cluster.

    Raises:
      InputError: they cannot be found or joined.
    """
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--distributed: the other hosts cannot be found or joined ({reason}); leave it out on one machine"
        ) from error
