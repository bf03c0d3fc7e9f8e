"""Gives access to intermediate results of a network: position attention, learnt scales and the branches' logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError
from danet_jax.models.danet import Logits
from danet_jax.ops.attention import attention_column, attention_row, row_logsumexp
from danet_jax.ops.checks import renamed_argument

SCALES = {"alpha": "position_attention", "beta": "channel_attention"}
"""The learnt scales, and the module of the head that each belongs to."""


def learnt_scales(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns alpha and beta by name, as far as the network's parameters contain them."""
    head = params.get("head", {})
    return {name: head[module][name] for name, module in SCALES.items() if module in head}


def with_scales(params: Mapping[str, Any], scales: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's parameters with alpha and beta replaced by those in `scales`."""
    modules = {SCALES[name]: {**params["head"][SCALES[name]], name: value} for name, value in scales.items()}
    return {**params, "head": {**params["head"], **modules}}


def queries_and_keys(collections: Mapping[str, Any]) -> tuple[jax.Array, jax.Array] | None:
    """Returns the queries and keys of position attention, `[B, H*W, C/8]` each, or None if there are none.

    Args:
      collections: the collections that `DANet.apply` returns with `mutable=["intermediates"]`.
    """
    sown = collections.get("intermediates", {}).get("head", {}).get("position_attention", {})
    return (sown["queries"][-1], sown["keys"][-1]) if "queries" in sown else None


class Intermediates(NamedTuple):
    """Intermediate results of a network for a batch of images, at its output stride.

    Attributes:
      logits: `[B, h, w, K]` each.
      queries, keys: queries and keys of position attention, float32 `[B, N, d]`; None if the network has none.
      modules: outputs of modules of the head by name, `[B, h, w, C]`.
    """

    logits: Logits
    queries: jax.Array | None
    keys: jax.Array | None
    modules: dict[str, jax.Array]


def apply_with_intermediates(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, modules: Sequence[str] = ()
) -> Intermediates:
    """Applies a network to images and returns intermediate results.

    Args:
      model: a `DANet`.
      variables: its variables.
      images: normalised images, float32 `[B, H, W, 3]`.
      modules: names of the head's modules whose outputs are returned. Names that do not exist are ignored.
    """
    logits, collections = model.apply(
        variables,
        images,
        upsample=False,
        mutable=["intermediates"],
        capture_intermediates=lambda module, method: method == "__call__" and module.name in modules,
    )
    sown = queries_and_keys(collections)
    queries, keys = (None, None) if sown is None else (x.astype(jnp.float32) for x in sown)
    head = collections.get("intermediates", {}).get("head", {})
    outputs = {name: head[name]["__call__"][-1] for name in modules if "__call__" in head.get(name, {})}
    return Intermediates(logits, queries, keys, outputs)


class AttentionMaps(NamedTuple):
    """Two attention maps for each of K positions, float32 `[K, h, w]`.

    Attributes:
      rows: how much the position attends to every position; each map sums to 1.
      columns: how much every position attends to the position.
    """

    rows: np.ndarray
    columns: np.ndarray


class Explanation(NamedTuple):
    """Intermediate results of a network for one image, at its output stride: N = h * w positions in row-major order.

    Attributes:
      size: (h, w).
      queries, keys: queries and keys of position attention, float32 `[N, d]`; None if the network has none.
      log_sums: logarithm of the softmax denominator of each row, float32 `[N]`; None without position attention.
      alpha, beta: learnt scales of the two attention modules; None if the network does not have the module.
      logits: float32 `[h, w, K]` each; None if the network does not have the branch.
    """

    size: tuple[int, int]
    queries: jax.Array | None
    keys: jax.Array | None
    log_sums: jax.Array | None
    alpha: float | None
    beta: float | None
    logits: Logits

    @renamed_argument("places", "positions")
    def maps(self, positions: Sequence[Sequence[int]] | np.ndarray) -> AttentionMaps:
        """Returns the exact attention maps of chosen positions.

        Args:
          positions: int `[K, 2]`, the row (0 to h - 1) and column (0 to w - 1) of each position.

        Raises:
          InputError: the network has no position attention, or a position does not exist.
        """
        if self.queries is None or self.keys is None or self.log_sums is None:
            raise InputError(
                "positions: the network has no position attention (position_attention=False)",
                what="positions",
            )
        index = jnp.asarray(_flat_indices(positions, self.size))[None]
        queries, keys = self.queries[None], self.keys[None]
        rows = attention_row(queries, keys, index)[0]
        columns = attention_column(queries, keys, self.log_sums[None], index)[0].T
        return AttentionMaps(*(np.asarray(x).reshape(-1, *self.size) for x in (rows, columns)))


def explain(model: nn.Module, variables: Mapping[str, Any], image: jax.Array) -> Explanation:
    """Returns the intermediate results of a network for one normalised image, float32 `[1, H, W, 3]`."""
    logits, queries, keys, log_sums = _apply_to_one(model, variables, image)
    scales = learnt_scales(variables["params"])
    alpha, beta = (float(scales[name]) if name in scales else None for name in SCALES)
    logits = jax.tree.map(np.asarray, logits)
    return Explanation(logits.fusion.shape[:2], queries, keys, log_sums, alpha, beta, logits)


@partial(jax.jit, static_argnames="model")
def _apply_to_one(model: nn.Module, variables: Mapping[str, Any], image: jax.Array) -> Any:
    logits, queries, keys, _ = apply_with_intermediates(model, variables, image)
    log_sums = None if queries is None or keys is None else row_logsumexp(queries, keys)
    return jax.tree.map(lambda x: x[0], (logits, queries, keys, log_sums))


def _flat_indices(positions: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns the flat indices, int32 `[K]`, of positions `[K, 2]`."""
    try:
        array = np.asarray(positions)
    except ValueError:  # The nested sequences have different lengths.
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
        raise InputError(
            f"positions={positions!r} must be integers [K, 2], a row and a column for each of K >= 1 positions",
            what="positions",
            value=positions,
        )
    invalid = array[((array < 0) | (array >= size)).any(1)].tolist()
    if invalid:
        raise InputError(
            f"positions={invalid[0]} does not exist; rows are 0 to {size[0] - 1}, columns 0 to {size[1] - 1}",
            what="positions",
            value=invalid[0],
        )
    return (array[:, 0] * size[1] + array[:, 1]).astype(np.int32)
