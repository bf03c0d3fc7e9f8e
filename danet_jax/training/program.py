"""What a compiled program needs and moves, from the compiler's account and the program's text, without running it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax

_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2},
    **{"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8},
}
_ARRAY = re.compile(rf"\b({'|'.join(sorted(_BYTES, key=len, reverse=True))})\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
# What names, groups or announces arrays, without moving their values.
_NOT_MOVING = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier"),
    *("copy-start", "slice-start", "slice-done", "async-start", "async-done"),
}
_COLLECTIVE = re.compile(
    " (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all|collective-broadcast)"
    r"(?:-start|-done)?\("
)
_CONVOLUTION = re.compile(r' convolution\(|custom_call_target="__cudnn\$conv')


@dataclasses.dataclass(frozen=True)
class Program:
    """Of one device.

    Attributes:
      arguments, output, scratch, total: bytes; an argument whose memory is given to the output counts once.
      traffic: bytes of operands and results of every instruction of the entry computation, loops counted once.
        To compare programs of one compiler by, not to foretell a time: what stays in fast memory counts, too.
      collectives: kind -> bytes, of the instructions that exchange data with other devices; part of `traffic`.
      widest_window: of a convolution. In a program for NVIDIA one as wide as the feature map is the gradient to
        the kernel of a dilated convolution, for which cuDNN has no fast algorithm.
    """

    arguments: int
    output: int
    scratch: int
    total: int
    traffic: int
    collectives: Mapping[str, int]
    widest_window: int


def read_program(compiled: jax.stages.Compiled) -> Program:
    """Reads all of it from a compiled program."""
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    return Program(
        arguments=memory.argument_size_in_bytes,
        output=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        scratch=memory.temp_size_in_bytes,
        total=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        traffic=sum(moved for moved, _ in _instructions(text)),
        collectives=collectives(text),
        widest_window=widest_window(text),
    )


def count_flops(lowered: jax.stages.Lowered) -> float | None:
    """Floating-point operations of all devices together by XLA's count, None if it has none.

    Of the program before it is optimised, so that it is the network's own work; what a kernel from outside computes
    (position attention on accelerators) is not in it.
    """
    analysis: Any = lowered.cost_analysis()
    flops = (analysis or {}).get("flops", -1.0)
    return float(flops) if flops > 0 else None


def collectives(text: str) -> dict[str, int]:
    """Kind of exchange between devices -> bytes of operands and results in the entry computation."""
    kinds_of = {
        name: sorted({match[1] for match in _COLLECTIVE.finditer(body)})
        for name, body in re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    }
    total: Counter[str] = Counter()
    for moved, line in _instructions(text):
        # One by itself, or in what a fusion or a started operation calls.
        found = [match[1] for match in _COLLECTIVE.finditer(line)]
        for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
            found += kinds_of.get(called, [])
        if found:
            total[found[0]] += moved
    return dict(total)


def widest_window(text: str) -> int:
    """The longest side of a convolution's window in any computation; 0 without convolutions."""
    widest = 0
    for line in text.splitlines():
        if _CONVOLUTION.search(line):
            window = re.search(r"window=\{size=(\d+(?:x\d+)*)", line)
            widest = max(widest, *map(int, window[1].split("x")) if window else (1,))
    return widest


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """Bytes of operands and results, and the line, of every instruction of the entry computation that moves data."""
    shapes: dict[str, str] = {}
    for line in text[text.index("\nENTRY ") :].splitlines()[2:]:
        plain = re.sub(r"\{[^{}]*T\([^{}]*\}", "", line)  # tiled layouts hold brackets
        match = _INSTRUCTION.match(plain)
        if match is None:
            continue
        name, shape, operation = match.groups()
        shapes[name] = shape
        if operation in _NOT_MOVING:
            continue
        depth, end, rest = 1, 0, plain[match.end() :]
        while depth and end < len(rest):
            depth += (rest[end] == "(") - (rest[end] == ")")
            end += 1
        operands = re.findall(r"%([\w.\-]+)", rest[:end])
        yield _size(shape) + sum(_size(shapes.get(operand, "")) for operand in operands), plain


def _size(shape: str) -> int:
    """Bytes of all arrays in it."""
    return sum(
        _BYTES[kind] * math.prod(int(n) for n in dimensions.split(",") if n)
        for kind, dimensions in _ARRAY.findall(shape)
    )
