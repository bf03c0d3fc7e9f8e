"""Pages in one file: data, scripts and styles are inside, and nothing is fetched."""

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

from danet_jax.runs.files import replacing

_SMALL = 1 << 15
"""Pixels up to which an image is stored exactly."""


def write_page(
    path: Path,
    template: str,
    scripts: Sequence[str],
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
    **values: Any,
) -> int:
    """Writes a page completely or not at all, and returns its size in bytes.

    Args:
      path: the file.
      template: a file in assets/.
      scripts: files in assets/, in the order in which they run.
      facts: JSON for the scripts.
      arrays: arrays for the scripts, of uint8, int16, uint16 or float32.
      **values: values for the template. Text is shown as it is and is never markup.
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
    """Returns where each array lies, and all of them compressed and in base64.

    An array's bytes of equal significance are stored together, which compresses better.
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
    """Returns a photo as a `data:` link: PNG if it is small, else JPEG, with no side longer than `longest`."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if max(picture.size) > longest:
        picture = picture.copy()
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if picture.width * picture.height <= _SMALL:
        return data_link(picture)
    file = io.BytesIO()
    # Without `optimize`, which fails where the file takes more bytes than the image has pixels, as with noise.
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def data_link(image: np.ndarray | Image.Image) -> str:
    """Returns an image, exactly, as a `data:` link of a PNG."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _json(facts: Mapping[str, Any]) -> markupsafe.Markup:
    # In a script element, only these characters could be taken for markup.
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
