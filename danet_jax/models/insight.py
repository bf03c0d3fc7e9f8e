"""What a network saw in one picture: its position attention, row by row and column by column, and three opinions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError
from danet_jax.models.attention import learnt_scales, sown_attention
from danet_jax.models.danet import DANet, Logits
from danet_jax.ops.attention import attention_column, attention_row, row_logsumexp


class AttentionMaps(NamedTuple):
    """Of K places, two maps each, float32 `[K, h, w]`.

    Attributes:
      rows: how much the place attends to every other; each map sums to 1.
      columns: how much every other place attends to it.
    """

    rows: np.ndarray
    columns: np.ndarray


class Insight(NamedTuple):
    """Of one picture, at the network's output stride: `h` rows and `w` columns of places, N = h * w, row by row.

    Attributes:
      size: (h, w).
      queries, keys: of position attention, float32 `[N, d]`; None without position attention.
      log_sums: float32 `[N]`, the logarithm of each row's denominator; None likewise.
      alpha, beta: the learnt scales of the two attentions; None for one that the network does not have.
      logits: float32 `[h, w, K]` each: `fusion`, `position`, `channel`; None for a branch that it does not have.
    """

    size: tuple[int, int]
    queries: jax.Array | None
    keys: jax.Array | None
    log_sums: jax.Array | None
    alpha: float | None
    beta: float | None
    logits: Logits

    def maps(self, places: Sequence[Sequence[int]] | np.ndarray) -> AttentionMaps:
        """The exact attention of places `[K, 2]`, (row, column) in 0 to (h - 1, w - 1).

        Raises:
          InputError: the network has no position attention, or a place does not exist.
        """
        if self.queries is None or self.keys is None or self.log_sums is None:
            raise InputError("places: the network has no position attention (position_attention=False)")
        index = jnp.asarray(_checked(places, self.size))[None]
        queries, keys = self.queries[None], self.keys[None]
        rows = attention_row(queries, keys, index)[0]
        columns = attention_column(queries, keys, self.log_sums[None], index)[0].T
        return AttentionMaps(*(np.asarray(x).reshape(-1, *self.size) for x in (rows, columns)))


def insight(model: DANet, variables: Mapping[str, Any], image: jax.Array) -> Insight:
    """What a network saw in one picture, normalised, float32 `[1, H, W, 3]`."""
    logits, (queries, keys, log_sums) = _of_one(model, variables, image)
    logits = jax.tree.map(np.asarray, logits)
    scales = learnt_scales(variables["params"])
    alpha, beta = (float(scales[name]) if name in scales else None for name in ("alpha", "beta"))
    return Insight(logits.fusion.shape[:2], queries, keys, log_sums, alpha, beta, logits)


class Inside(NamedTuple):
    """What a network makes of normalised images, at its output stride.

    Attributes:
      logits: `[B, h, w, K]`.
      queries, keys: of position attention, float32 `[B, N, d]`; None without it.
      modules: what modules of the head give, `[B, h, w, C]` by name.
    """

    logits: Logits
    queries: jax.Array | None
    keys: jax.Array | None
    modules: dict[str, jax.Array]


def look_inside(
    model: DANet, variables: Mapping[str, Any], images: jax.Array, modules: Sequence[str] = ()
) -> Inside:
    """Applies a network to normalised images, float32 `[B, H, W, 3]`; of `modules`, those that its head has."""
    logits, state = model.apply(
        variables,
        images,
        upsample=False,
        mutable=["attention", "intermediates"],
        capture_intermediates=lambda module, method: method == "__call__" and module.name in modules,
    )
    queries, keys = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), sown_attention(state)) or (
        None,
        None,
    )
    outputs = state.get("intermediates", {}).get("head", {})
    return Inside(logits, queries, keys, {name: of_it["__call__"][-1] for name, of_it in outputs.items()})


@partial(jax.jit, static_argnames="model")
def _of_one(model: DANet, variables: Mapping[str, Any], image: jax.Array) -> Any:
    logits, queries, keys, _ = look_inside(model, variables, image)
    log_sums = None if queries is None or keys is None else row_logsumexp(queries, keys)
    return jax.tree.map(lambda x: x[0], (logits, (queries, keys, log_sums)))


def _checked(places: Any, size: tuple[int, int]) -> np.ndarray:
    """Places `[K, 2]` as indices int32 `[K]`."""
    try:
        array = np.asarray(places)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
        raise InputError(
            f"places={places!r} must be whole numbers [K, 2], (row, column) of each, with K at least 1"
        )
    wrong = ((array < 0) | (array >= size)).any(1)
    if wrong.any():
        raise InputError(
            f"places={array[wrong][0].tolist()} does not exist; rows are 0 to {size[0] - 1}, columns 0 to {size[1] - 1}"
        )
    return (array[:, 0] * size[1] + array[:, 1]).astype(np.int32)
