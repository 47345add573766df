"""What the C library does with memory that has been given back."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _TOP_PAD = -1, 2**20


def keep_freed_memory() -> bool:
    """Makes this process, for the rest of its life, keep the memory of freed tensors for the next ones.

    glibc gives large blocks back to the system as soon as they are freed, and the next step of a training, or of
    dynamics of thousands of atoms, has them again, page by page, for up to a quarter of its time. The price is memory
    that is held between steps. Nothing is done without glibc, or where the user has set one of its variables
    (`MALLOC_…`).

    Returns:
        Whether it was possible.

    Source: the manual page mallopt(3).
    """
    by_user = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )
    if by_user or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    values = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    return all([mallopt(name, value) == 1 for name, value in values])
