"""One piece of work that a client waits for."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from musicgen.web.work import Answer
from musicgen.web.worker import Refused

State = Literal["waiting", "working", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(eq=False)
class Job:
    """What is asked of a worker, and how far it has come."""

    client: str
    request: dict[str, Any]
    payload: bytes = b""
    of: int | None = None  # bars that are to be written
    awaited: bool = False  # whether somebody waits for its answer; else only the tune's id is held
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    bars: int = 0
    tune: str | None = None
    answer: Answer | None = None
    fault: Refused | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in OVER

    def move(self, state: State | None = None, **news: Any) -> None:
        """Note what happened, and wake those who wait for it; what is over stays as it is."""
        if self.is_over:
            return
        self.state = state or self.state
        for name, value in news.items():
            setattr(self, name, value)
        if self.is_over:
            self.request, self.payload = {}, b""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def wrote(self, bars: int) -> None:
        """Note how many bars are written."""
        self.move(bars=bars)

    async def next(self, seconds: float) -> None:
        """Wait until something happens, so many seconds at the most."""
        try:
            await asyncio.wait_for(self._moved.wait(), seconds)
        except TimeoutError:
            return

    async def over(self) -> Answer:
        """Wait for its end. Raises Refused."""
        while not self.is_over:
            await self._moved.wait()
        if self.answer is None:  # it failed, or was cancelled
            raise self.fault or Refused(400, "the job was cancelled")
        return self.answer
