"""The size of images as an argument of a mode."""

from __future__ import annotations

import re

from danet_jax.errors import InputError


def size_of(arguments: list[str], mode: str) -> tuple[int, int] | None:
    """Height and width of the one argument HEIGHTxWIDTH; None where there is none."""
    if not arguments:
        return None
    matched = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", arguments[0])
    if matched is None or len(arguments) > 1:
        raise InputError(
            f"{' '.join(arguments)}: --mode={mode} takes one argument, a size of images such as 1024x2048"
        )
    return int(matched[1]), int(matched[2])
