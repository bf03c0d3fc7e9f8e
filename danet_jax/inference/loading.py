"""A segmenter from a run or from a checkpoint, with the protocol that belongs to it."""

from __future__ import annotations

import os
from typing import Any

from danet_jax.errors import InputError
from danet_jax.inference.applied import refuse_other_types
from danet_jax.inference.options import protocol_of
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.models.danet import DANet
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint


def load_segmenter(
    path: str | os.PathLike[str],
    protocol: Protocol | None = None,
    **overrides: Any,
) -> Segmenter:
    """A segmenter of a trained run, for example `load_segmenter("runs/quickstart")`, or of any checkpoint.

    Args:
      path: a run's directory, of which the best checkpoint is used; a checkpoint's file; or a name in the zoo.
      protocol: None is the one that the run was evaluated with, for other checkpoints the whole image at once.
      **overrides: see `load_checkpoint`.

    Raises:
      InputError: there is no trained network at `path`, or it is a backbone alone.
    """
    refuse_other_types(protocol=protocol)
    checkpoint = load_checkpoint(path, **overrides)
    if not isinstance(checkpoint.model, DANet):
        raise InputError(f"{path}: holds a backbone alone; train it with --config.init.checkpoint={path}")
    protocol = protocol_for(checkpoint, protocol)
    return Segmenter(checkpoint.model, checkpoint.variables, protocol, checkpoint.classes)


def protocol_for(checkpoint: Checkpoint, protocol: Protocol | None = None) -> Protocol:
    """`protocol` for the network of a checkpoint, with nothing left open.

    None is the protocol that a run was evaluated with; of other checkpoints, the whole image at once.
    """
    if protocol is None and "evaluation" in checkpoint.config:
        protocol = protocol_of(checkpoint.config)
    network = checkpoint.network
    return (protocol or Protocol.whole()).for_network(
        network.align_corners, checkpoint.mean, checkpoint.std, checkpoint.classes
    )
