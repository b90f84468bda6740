"""What Ctrl-C, a polite kill and a lost terminal do while work can stop in good order."""

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
SIGNALS_TO_ABORT: Final = 3  # signals after which the program ends at once


class StopSignals:
    """Pass SIGINT, SIGTERM or SIGHUP on to whoever can stop; the third signal ends all at once.

    One Ctrl-C may arrive twice: from the terminal, and from torchrun.

    with Stopping() as stopping:
        read()                     # interrupted at once
        stopping.ask = run.stop    # from here on a signal asks
    """

    def __init__(self) -> None:
        self.stop_callback: Callable[[], None] | None = None
        self.message_callback: Callable[[str], object] = lambda _: None
        self.signal_count = 0  # signals since there is somebody to ask
        self.previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others hear no signals
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
        at: TracebackType | None,
    ) -> None:
        for number, known in self.previous_handlers.items():
            signal.signal(number, known)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's own
        """Ask once; say that it was heard; then insist."""
        if self.stop_callback is None:
            raise KeyboardInterrupt
        self.signal_count += 1
        if self.signal_count >= SIGNALS_TO_ABORT:
            raise KeyboardInterrupt
        if self.signal_count == 1:
            self.stop_callback()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            self.message_callback(_STOP_MESSAGES[self.signal_count])


_STOP_MESSAGES: Final = {
    1: "stopping: this update is finished and saved first",
    2: "still saving; a third signal ends at once, and what was not saved is lost",
}


def is_handled(number: signal.Signals) -> bool:
    """Tell whether a signal is to be heard: nohup has SIGHUP ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    return number != hangup or signal.getsignal(number) is not signal.SIG_IGN
