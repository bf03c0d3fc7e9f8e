"""Reads weights files as NumPy arrays, without running any code that they contain.

The first bytes of a file, not its name, determine whether it is a safetensors file or a PyTorch file (a zip archive,
or a bare pickle before 2020). PyTorch files are read by torch with `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, registers bfloat16 with NumPy
import numpy as np

from danet_jax.errors import InputError, first_line

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_MAX_HEADER = 100_000_000  # Bytes; the limit in the specification of safetensors.

# Keys under which training code stores a state dict next to the optimizer state, the epoch and so on.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network")

# Objects that mmengine and others save next to the weights. The reader replaces them by `_Ignored`, so that the library
# that wrote them need not be installed and none of its code is run.
_BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
)


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """Tensors by name, and the metadata of the file: strings in safetensors files, plain values in PyTorch files."""

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


class _Ignored:
    """Replaces an object that the reader does not need."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(path: str | Path) -> WeightsFile:
    """Returns the tensors of a safetensors or PyTorch file, whatever its name.

    Args:
      path: the file. For safetensors split into several files, their index (`model.safetensors.index.json`).

    Raises:
      InputError: the file cannot be read, is not a weights file, is truncated or contains objects other than tensors,
        or it is a PyTorch file and torch is not installed. The message names the file.
    """
    path = Path(path)
    try:
        return _read(path)
    except InputError as error:
        raise error.in_file(path) from error


def _read(path: Path) -> WeightsFile:
    if path.exists() and not path.is_file():  # Reading a pipe would block.
        raise InputError("not a file but a folder, a pipe or a device")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    if start.startswith(_ZIP) or (start.startswith(_PICKLE) and start[1:2] in b"\x02\x03\x04\x05"):
        return _read_torch(path)
    header = int.from_bytes(start[:8], "little")
    if len(start) == 9 and header <= _MAX_HEADER and start[8:] == b"{":
        part = re.search(r"-\d+-of-(\d+)\.safetensors$", path.name)
        if part and int(part[1]) != 1:
            raise InputError("one of several files of a network; give their index, *.safetensors.index.json")
        return _read_safetensors(path)
    if start.lstrip().startswith(b"{"):
        return _read_shards(path)
    raise InputError("neither a safetensors file nor a PyTorch file")


def _read_shards(path: Path) -> WeightsFile:
    """Returns the tensors of all files that an index, such as `model.safetensors.index.json`, lists in its folder."""
    try:
        file_of = json.loads(path.read_text())["weight_map"]
        files = sorted(set(file_of.values()))
        if not files or any(Path(file).name != file for file in files):
            raise ValueError("weight_map must name files in the same folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = "neither a weights file nor the index of several"
        raise InputError(f"{problem}: {first_line(error)}") from error
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            tensors |= _read_safetensors(path.parent / file).tensors
        except InputError as error:
            raise error.in_file(file) from error
    if missing := sorted(set(file_of) - set(tensors)):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise InputError(f"lists tensors that its files do not contain: {missing[0]}{more}")
    return WeightsFile({name: tensors[name] for name in file_of}, {})


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return WeightsFile(
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 (not a dict)
                file.metadata() or {},
            )
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"not an intact safetensors file: {_first_sentence(error)}") from error


def _read_torch(path: Path) -> WeightsFile:
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("a PyTorch file; reading it needs torch: pip install torch") from None
    stand_ins: list[Any] = [(_Ignored, name) for name in _BOOKKEEPING]
    try:
        _refuse_flipped_bits(path)
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about the format of old files.
            content = _load(torch, path)
    except Exception as error:  # A damaged pickle can raise any type of error.
        raise InputError(_reason(error)) from error
    wrapped = content if isinstance(content, Mapping) else {}
    state_dict = next((wrapped[k] for k in _WRAPPERS if isinstance(wrapped.get(k), Mapping)), wrapped)
    tensors = {}
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise InputError(f"does not contain a state dict: {name!r} is of type {kind}, not a tensor")
        try:
            value = value.detach()
            tensors[str(name)] = (value.float() if value.is_floating_point() else value).numpy()
        except (RuntimeError, TypeError) as error:  # The tensor is sparse, quantised or on the meta device.
            raise InputError(f"{name!r} is not a plain tensor: {_first_sentence(error)}") from error
    if not tensors:
        raise InputError("contains no tensors")
    return WeightsFile(tensors, _plain({k: v for k, v in wrapped.items() if v is not state_dict}))


def _refuse_flipped_bits(path: Path) -> None:
    """Raises ValueError if a zip archive does not match its CRC-32 checksums, which torch does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            has_checksums = any(info.CRC for info in archive.infolist())
            if has_checksums and (record := archive.testzip()):
                raise ValueError(f"{record} does not match its checksum; download or copy the file again")


def _load(torch: Any, path: Path) -> Any:
    with path.open("rb") as file:
        # Memory mapping keeps tensors that are not needed, such as the optimizer state, out of memory. torch maps only
        # zip archives, and treats every file whose name ends in `.safetensors` as one of that format.
        if file.read(4) == _ZIP and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    text = str(error)
    objects = re.search(r"(?:GLOBAL|class) ([\w.]+)", text)
    if objects or "weights_only" in text or "Weights only" in text:
        found = f" ({objects[1]})" if objects else ""
        return (
            f"contains objects other than tensors{found}, which could run code and are not read; "
            "save only the state_dict() with torch.save"
        )
    return f"not an intact PyTorch file: {_first_sentence(error)}"


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0] if lines else type(error).__name__


def _plain(value: Any) -> Any:
    """Returns a nested value in which everything except numbers and strings is replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) else None
