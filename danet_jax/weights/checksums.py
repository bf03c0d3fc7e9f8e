"""Checksums of what this package exports: a bit that flips on its way changes every score and says nothing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from danet_jax.errors import InputError

KEY = "danet_jax.crc32"
"""Under which they are kept, as JSON: a number for each tensor by name, and one for all texts beside them."""

_TEXTS = "texts"


def checksums(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """CRC-32 of each tensor's bytes (those of C order), and of `texts`, in JSON."""
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in tensors.items()}
    return json.dumps({**sums, _TEXTS: _of_texts(texts)})


def verify(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Holds what was read against its checksums, if it has any.

    Raises:
      InputError: a tensor or a text has changed since it was written; the message names it.
    """
    if KEY not in metadata:
        return
    texts = {key: text for key, text in metadata.items() if key != KEY and isinstance(text, str)}
    try:
        expected = json.loads(metadata[KEY])
        found = json.loads(checksums(tensors, texts))
        wrong = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    except (TypeError, ValueError, AttributeError):
        wrong = [KEY]
    if wrong:
        raise InputError(
            f"damaged since it was written: {wrong[0]}{f' and {len(wrong) - 1} more' if wrong[1:] else ''} differ from "
            "the checksums in the file; export or copy it again"
        )


def _of_texts(texts: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(texts, sort_keys=True).encode())
