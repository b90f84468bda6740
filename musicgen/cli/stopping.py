"""What Ctrl-C and a polite kill do while something is at work that can stop in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Pass the first SIGINT or SIGTERM on to whoever can stop; the second ends all at once.

    with Stopping() as stopping:
        read()                     # interrupted at once
        stopping.ask = run.stop    # from here on the first signal asks
    """

    def __init__(self) -> None:
        self.ask: Callable[[], None] | None = None
        self.asked = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others hear no signals
            self.before = {number: signal.signal(number, self.hear) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, known in self.before.items():
            signal.signal(number, known)

    def hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's own
        """Ask once; then insist."""
        if self.ask is None or self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.ask()
