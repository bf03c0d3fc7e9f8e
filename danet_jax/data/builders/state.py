"""What decides what would be prepared: options, and the state of the files it is made of."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any


def fingerprint(*parts: Any) -> str:
    """Return 12 hexadecimal digits that change when any of `parts` (JSON values) does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_state(path: pathlib.Path) -> tuple[int, int]:
    """Return what tells an unchanged file from a changed one without reading it: size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
