"""Huge pages for large arrays, where Linux gives them only to programs that ask."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
_STARTED = "DANET_JAX_STARTED"
"""In the environment of the second start: the number of the process, which stays the same."""

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask_for_huge_pages() -> None:
    """Starts this process once more, with an environment in which glibc's malloc asks for huge pages.

    XLA's CPU programs take the memory of their intermediate results anew at each call. In pages of 4 KiB that is
    100,000 page faults and a quarter of a small network's training step; in pages of 2 MiB it is next to nothing.
    glibc reads this setting (`GLIBC_TUNABLES`, from glibc 2.35) when a process starts. Nothing is done where it is set
    already, where the kernel gives huge pages to all or to none, or where there is no glibc. To be called by a program
    itself: one that runs inside another, as in a notebook or a debugger, is left alone, since all that the other holds
    would be lost.
    """
    caller = inspect.currentframe()
    caller = caller and caller.f_back
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables or caller is None or caller.f_back:
        return
    if os.environ.get(_STARTED) == str(os.getpid()):
        return  # something takes the setting away: glibc does from programs with capabilities
    try:
        only_if_asked = "[madvise]" in _SETTING.read_text()
        major, minor = (int(n) for n in (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[1].split(".")[:2])
    except (OSError, ValueError, IndexError):
        return
    if only_if_asked and (major, minor) >= (2, 35):
        os.environ[_STARTED] = str(os.getpid())
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{TUNABLE}".lstrip(":")
        with contextlib.suppress(OSError):  # it does as well without
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
