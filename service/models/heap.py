"""The C library's heap: freed memory is given back to the system after a model has left."""

import ctypes


def trim_heap() -> bool:
    """Give freed memory back to the system; return whether the C library can (glibc can).

    Blocks for milliseconds, with the GIL released. Any thread may call it.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(ctypes.c_size_t(0))
    return True
