"""Graceful stop of a training run on SIGINT (Ctrl-C), SIGTERM and SIGHUP."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
SIGNALS_TO_ABORT: Final = 3  # the third signal ends the program immediately


class StopSignals:
    """Context manager that calls `stop_callback` on the first SIGINT, SIGTERM or SIGHUP.

    Without a callback a signal raises KeyboardInterrupt, and so does the third signal. Two are
    tolerated because under torchrun one Ctrl-C arrives twice: from the terminal and from torchrun.

    with StopSignals() as stop_signals:
        read()                                   # a signal interrupts it
        stop_signals.stop_callback = run.stop    # from here on a signal calls run.stop
    """

    def __init__(self) -> None:
        self.stop_callback: Callable[[], None] | None = None
        self.message_callback: Callable[[str], object] = lambda _: None
        self.signal_count = 0  # signals since the callback was set
        self.previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self.previous_handlers = {
                number: signal.signal(number, self.handle_signal)
                for number in SIGNALS
                if is_handled(number)
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        """Call the callback on the first signal; raise KeyboardInterrupt on the third."""
        if self.stop_callback is None:
            raise KeyboardInterrupt
        self.signal_count += 1
        if self.signal_count >= SIGNALS_TO_ABORT:
            raise KeyboardInterrupt
        if self.signal_count == 1:
            self.stop_callback()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
            self.message_callback(_STOP_MESSAGES[self.signal_count])


_STOP_MESSAGES: Final = {
    1: "stopping after this update, which is saved first",
    2: "still saving; a third signal stops immediately and loses unsaved updates",
}


def is_handled(number: signal.Signals) -> bool:
    """Return whether to handle a signal; nohup ignores SIGHUP, and that is respected."""
    hangup = getattr(signal, "SIGHUP", None)
    return number != hangup or signal.getsignal(number) is not signal.SIG_IGN
