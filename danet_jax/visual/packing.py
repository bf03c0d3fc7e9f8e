"""Renders self-contained pages: one file contains data, scripts and styles, and nothing is fetched."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np
from PIL import Image

import danet_jax

_SMALL = 1 << 15
"""The number of pixels up to which an image is stored losslessly."""


def render_page(
    template: str,
    *,
    title: str,
    scripts: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    **values: Any,
) -> str:
    """Returns the HTML of a page.

    Args:
      template: a file in assets/ that extends page.html.
      title: the title of the browser's window.
      scripts: files in assets/, in the order in which they run.
      facts: values for the scripts, which are passed as JSON.
      arrays: arrays for the scripts, of uint8, int16, uint16 or float32.
      **values: values for the template. Text is escaped, so it is never interpreted as markup.
    """
    script = "\n".join(_asset(name) for name in scripts)
    described, data = pack(arrays or {})
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            facts_json=_json({**(facts or {}), "arrays": described}),
            data=data,
            script=markupsafe.Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=danet_jax.__version__,
            **values,
        )
    )


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], str]:
    """Returns a description of each array, and the compressed content of all arrays in base64.

    Bytes of equal significance are stored together, since they compress better this way.
    """
    described, planes, offset = [], [], 0
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        plane = little.reshape(-1).view(np.uint8).reshape(-1, little.itemsize).T.tobytes()
        described.append({"name": name, "type": array.dtype.name, "offset": offset, "length": array.size})
        planes.append(plane)
        offset += len(plane)
    return described, base64.b64encode(gzip.compress(b"".join(planes), 6, mtime=0)).decode()


def encode_photo(image: np.ndarray, longest: int = 2048, quality: int = 88) -> str:
    """Returns a photo as a `data:` link: a PNG if it is small, or a JPEG with sides of at most `longest` pixels."""
    photo = Image.fromarray(image)
    photo.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if photo.width * photo.height <= _SMALL:
        return encode_png(np.asarray(photo))
    file = io.BytesIO()
    # `optimize` fails if the file has more bytes than the image has pixels, which happens with noise.
    photo.save(file, "JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_png(image: np.ndarray) -> str:
    """Returns an image as a `data:` link to a lossless PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def describe_network(
    position_attention: Any, channel_attention: Any, backbone: Any, output_stride: Any
) -> str:
    """Returns a network's description in words."""
    kinds = {(True, True): "DANet", (True, False): "Position attention", (False, True): "Channel attention"}
    kind = kinds.get((bool(position_attention), bool(channel_attention)), "Dilated FCN without attention")
    return f"{kind} on {str(backbone).replace('resnet', 'ResNet-')}, output stride {output_stride}"


def insert_breaks(text: object) -> markupsafe.Markup:
    """Returns text in which a browser may break lines after the punctuation in names and paths, but not in numbers."""
    parts = re.split(r"(?<=[_/])|(?<=[.:=-])(?=[A-Za-z])", str(text))
    return markupsafe.Markup("<wbr>").join(parts)


def _json(facts: Mapping[str, Any]) -> markupsafe.Markup:
    # Only these characters could be interpreted as markup in a script element.
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
    environment.globals["asset"] = lambda name: markupsafe.Markup(_asset(name))
    environment.filters["breakable"] = insert_breaks
    return environment
