"""Ctrl-C during long work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets; the work looks at it between its parts.

    The second Ctrl-C raises `KeyboardInterrupt` where it comes. The first one does not: Python
    drops what is raised within a callback of the garbage collector, and JAX registers one.
    In other threads than the main one Ctrl-C is left alone.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(signum, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
