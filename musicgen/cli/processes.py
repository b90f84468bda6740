"""`torchrun ... -m musicgen train`: which of several processes this is, and what only one does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musicgen.model.claim import Claim
    from musicgen.model.distributed import Ranks


def is_first() -> bool:
    """Tell whether this process speaks; alone, it does."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def several(device: str) -> Iterator[Ranks | None]:
    """Join the processes that torchrun started; None, without PyTorch, where this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    from musicgen.model.distributed import joined

    with joined(device) as ranks:
        yield ranks


@contextlib.contextmanager
def held(folder: Path, *, exists: bool, force: bool = False) -> Iterator[Claim]:
    """Hold a run's folder; of several processes the first holds it for all."""
    from musicgen.model.claim import Claim, claimed

    if not is_first():
        yield Claim(folder)
        return
    with claimed(folder, exists=exists, force=force) as claim:
        yield claim
