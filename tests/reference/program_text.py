"""Reads from the text of a compiled program what it moves: a guard of programs for machines that are not here.

Traffic is the bytes of operands and results of every instruction of the entry computation, with loops counted once. It
compares two programs of one compiler and predicts no time, because what stays in fast memory is counted as well.
"""

import collections
import math
import re

ARRAY = re.compile(r"\b(?:pred|(?:bf|[suf])(8|16|32|64))\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
NOT_MOVING = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier"}
NOT_MOVING |= {"copy-start", "slice-start", "slice-done", "async-start", "async-done"}
COLLECTIVE = re.compile(r" (all-[\w-]+?|reduce-scatter|collective-\w+)(?:-start|-done)?\(")


def traffic(text):
    """Bytes that the program moves."""
    return sum(moved for moved, _ in _instructions(text))


def collectives(text):
    """Bytes by kind of exchange between devices, including exchanges inside what an instruction calls."""
    bodies = dict(re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    total = collections.Counter()
    for moved, line in _instructions(text):
        called = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
        if found := COLLECTIVE.search("\n".join([line, *(bodies.get(name, "") for name in called)])):
            total[found[1]] += moved
    return dict(total)


def widest_window(text):
    """The longest side of a convolution's window; cuDNN has no fast algorithm for one as wide as the image."""
    convolution = re.compile(r' convolution\(|custom_call_target="__cudnn\$conv')
    lines = "\n".join(line for line in text.splitlines() if convolution.search(line))
    windows = re.findall(r"window=\{size=(\d+(?:x\d+)*)", lines)
    return max((int(side) for window in windows for side in window.split("x")), default=0)


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
    """Bytes of all arrays in a shape."""
    arrays = (
        (int(bits or 8), map(int, filter(None, sizes.split(",")))) for bits, sizes in ARRAY.findall(shape)
    )
    return sum(bits * math.prod(sizes) // 8 for bits, sizes in arrays)
