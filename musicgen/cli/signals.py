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
INSISTS: Final = 3  # signals after which the program ends at once


class Stopping:
    """Pass SIGINT, SIGTERM or SIGHUP on to whoever can stop; the third signal ends all at once.

    One Ctrl-C may arrive twice: from the terminal, and from torchrun.

    with Stopping() as stopping:
        read()                     # interrupted at once
        stopping.ask = run.stop    # from here on a signal asks
    """

    def __init__(self) -> None:
        self.ask: Callable[[], None] | None = None
        self.tell: Callable[[str], object] = lambda _: None
        self.heard = 0  # signals since there is somebody to ask
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others hear no signals
            self.before = {
                number: signal.signal(number, self.hear) for number in SIGNALS if is_heard(number)
            }
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
        """Ask once; say that it was heard; then insist."""
        if self.ask is None:
            raise KeyboardInterrupt
        self.heard += 1
        if self.heard >= INSISTS:
            raise KeyboardInterrupt
        if self.heard == 1:
            self.ask()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            self.tell(_TOLD[self.heard])


_TOLD: Final = {
    1: "stopping: this update is finished and saved first",
    2: "still saving; a third signal ends at once, and what was not saved is lost",
}


def is_heard(number: signal.Signals) -> bool:
    """Tell whether a signal is to be heard: nohup has SIGHUP ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    return number != hangup or signal.getsignal(number) is not signal.SIG_IGN
