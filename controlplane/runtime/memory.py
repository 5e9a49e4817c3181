"""Gives memory back: an apply of a big policy needs several times what its result keeps. glibc only."""

import ctypes
import sys
from contextlib import suppress

# malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 256 << 10


def frugal() -> None:
    """All threads allocate from one arena, and what is large comes from the system and goes back to it at once.

    With an arena each, what one thread frees none of the others can use; with glibc's adaptive threshold, messages
    of megabytes come to lie between small values and keep the heap from shrinking.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 1)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Returns unused memory to the system. Takes about a millisecond."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
