"""A page in one file: data, script and style inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from danet_jax.runs.writing import replacing

_SMALL = 1 << 15
"""Pixels up to which a picture is kept exactly."""


def write_page(
    path: Path,
    template: str,
    scripts: Sequence[str],
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
    **values: Any,
) -> int:
    """Writes a page, whole or not at all, and returns its size in bytes.

    Args:
      path: of the file.
      template: a file in assets/.
      scripts: files in assets/, in the order in which they are run.
      facts: JSON for the scripts.
      arrays: for the scripts; of uint8, int16, uint16 or float32.
      **values: for the template. Whatever they hold is shown as it is and is never markup.
    """
    script = "\n".join(_asset(name) for name in scripts)
    described, data = packed(arrays or {})
    page = _environment().get_template(template)
    text = page.render(
        facts_json=_json({**facts, "arrays": described}),
        data=data,
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )
    content = text.encode()
    with replacing(path) as partial:
        partial.write_bytes(content)
    return len(content)


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], str]:
    """Where each array lies, and all of them compressed and in base64.

    The bytes of equal significance of an array stand together, which compresses better.
    """
    described, planes, offset = [], [], 0
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        plane = little.reshape(-1).view(np.uint8).reshape(-1, little.itemsize).T.tobytes()
        described.append({"name": name, "type": array.dtype.name, "offset": offset, "length": array.size})
        planes.append(plane)
        offset += len(plane)
    return described, base64.b64encode(gzip.compress(b"".join(planes), 6, mtime=0)).decode()


def picture_link(image: np.ndarray | Image.Image, longest: int = 2048, quality: int = 88) -> str:
    """A photo as a `data:` link: JPEG, small ones PNG, made smaller if a side is longer than `longest`."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if max(picture.size) > longest:
        picture = picture.copy()
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if picture.width * picture.height <= _SMALL:
        return data_link(picture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def data_link(image: np.ndarray | Image.Image) -> str:
    """A picture, exactly, as a `data:` link of a PNG."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _json(facts: Mapping[str, Any]) -> markupsafe.Markup:
    # In a script element, only these could be taken for markup.
    text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("danet_jax.visual") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["style"] = lambda *names: markupsafe.Markup("\n".join(map(_asset, names)))
    return environment
