"""Where the attention modules start, for those who train too short for the paper's start to find a use for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict


@dataclasses.dataclass(frozen=True)
class AttentionStart:
    """A start of the attention modules; the defaults are the paper's.

    With alpha at 0 nothing tells query and key what to look for until alpha has left it, and with torch's range of
    query and key all places are attended to alike: what position attention adds is then the picture's average.

    Attributes:
      query_key_gain: times torch's range of query and key; the logits spread by its square.
      alpha: of position attention, 0 in the paper.
      beta: of channel attention, 0 in the paper.
    """

    query_key_gain: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0

    def apply(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fresh `params` of a `DANet` with this start; of modules that it has not, nothing."""
        flat = flatten_dict(dict(params))
        for path, leaf in flat.items():
            if path[-1] in ("alpha", "beta"):
                flat[path] = leaf + getattr(self, path[-1])
            elif path[-2:-1] in (("query",), ("key",)):
                flat[path] = leaf * self.query_key_gain
        return unflatten_dict(flat)
