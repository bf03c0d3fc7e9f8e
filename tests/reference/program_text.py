"""What a compiled program moves, read from its text (`compiled.as_text()`): the guard of programs that nobody can run.

Traffic counts the bytes of operands and results of every instruction of the entry computation, and loops once. It
compares two programs of one compiler; it predicts no time, since what stays in fast memory is counted as well.
"""

import collections
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}
ARRAY = re.compile(rf"\b({'|'.join(sorted(BYTES, key=len, reverse=True))})\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
NOT_MOVING = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier"),
    *("copy-start", "slice-start", "slice-done", "async-start", "async-done"),
}
COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all|collective-broadcast)(?:-start|-done)?\("
)


def traffic(text):
    """Bytes that the program moves."""
    return sum(moved for moved, _ in _instructions(text))


def collectives(text):
    """Kind of exchange between devices -> bytes, including exchanges inside what an instruction calls."""
    bodies = dict(re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    total = collections.Counter()
    for moved, line in _instructions(text):
        called = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
        if found := COLLECTIVE.search("\n".join([line, *(bodies.get(name, "") for name in called)])):
            total[found[1]] += moved
    return dict(total)


def widest_window(text):
    """The longest side of a convolution's window; cuDNN has no fast algorithm for one as wide as the image."""
    lines = [
        x for x in text.splitlines() if re.search(r' convolution\(|custom_call_target="__cudnn\$conv', x)
    ]
    windows = [re.search(r"window=\{size=(\d+(?:x\d+)*)", line) for line in lines]
    return max(
        (int(side) for window in windows for side in (window[1] if window else "1").split("x")), default=0
    )


def _instructions(text):
    """Yields bytes and the line of every instruction of the entry computation that moves data."""
    shapes = {}
    for line in text[text.index("\nENTRY ") :].splitlines()[2:]:
        plain = re.sub(r"\{[^{}]*T\([^{}]*\}", "", line)  # tiled layouts hold brackets
        if match := INSTRUCTION.match(plain):
            name, shape, operation, rest = match.groups()
            shapes[name] = shape
            if operation not in NOT_MOVING:
                operands = re.findall(r"%([\w.\-]+)", re.split(r"\)(?:,|$)", rest)[0])
                yield _size(shape) + sum(_size(shapes.get(operand, "")) for operand in operands), plain


def _size(shape):
    return sum(
        BYTES[kind] * math.prod(map(int, filter(None, n.split(",")))) for kind, n in ARRAY.findall(shape)
    )
