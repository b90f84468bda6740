"""What a client asks for, checked before it waits: wishes, primers, what a variant changes."""

from __future__ import annotations

import secrets
from base64 import b64decode
from dataclasses import fields
from typing import Any, Final

from msgspec import UNSET

from musicgen.errors import InvalidValue
from musicgen.sampling.infill import parse_bars
from musicgen.sampling.options import Wishes
from musicgen.web.limits import PRIMER_BYTES
from musicgen.web.schemas import Ask, PrimerSent
from musicgen.web.worker_pool import Job
from musicgen.web.worker_process import Refused

_WISHES: Final = tuple(entry.name for entry in fields(Wishes))
_PLAIN: Final = Wishes()
_SUFFIXES: Final = (".abc", ".mid", ".midi")


def sample_job(ask: Ask, client: str) -> Job:
    """Return the job of a new tune. Raises Refused, InvalidValue."""
    if ask.of is not None or ask.keep is not None:
        raise Refused(400, "of, keep: these belong to a tweak; leave them out of a sample")
    wishes = wished(ask)
    found = Wishes.read(**wishes)
    seed = secrets.randbelow(2**31) if ask.seed is None else ask.seed
    payload, suffix = (b"", None) if ask.primer is None else primer(ask.primer)
    request = {"do": "sample", "model": ask.model, "wishes": wishes, "seed": seed, "primer": suffix}
    return Job(client, request, payload, of=bars_of(found))


def tweak_job(ask: Ask, client: str, recipe: str) -> Job:
    """Return the job of a near variant. Raises Refused, InvalidValue."""
    if ask.primer is not None:
        raise Refused(400, "primer: it belongs to a sample; leave it out of a tweak")
    wishes = {name: getattr(_PLAIN, name) if value is None else value
              for name, value in wished(ask, unset=True).items()}  # fmt: skip
    Wishes.read(**wishes)
    if ask.keep is not None:
        parse_bars(ask.keep)
    request = {"do": "tweak", "recipe": recipe, "wishes": wishes, "seed": ask.seed,
               "keep": ask.keep}  # fmt: skip
    return Job(client, request)


def wished(ask: Ask, *, unset: bool = False) -> dict[str, Any]:
    """Return the wishes that are named; unset: those named as null too, which a variant frees."""
    values = {name: getattr(ask, name) for name in _WISHES}
    named = {name: value for name, value in values.items() if value is not UNSET}
    return {name: value for name, value in named.items() if unset or value is not None}


def bars_of(wishes: Wishes) -> int | None:
    """Return how many bars are to be written, where that is known: a repeated part once."""
    layout = wishes.layout
    return sum(one.bars for one in layout.stretches) if layout else wishes.bars


def primer(sent: PrimerSent) -> tuple[bytes, str]:
    """Return the bytes of a primer and the suffix of its format. Raises Refused, InvalidValue."""
    if (sent.text is None) == (sent.base64 is None):
        raise Refused(400, "primer: send either its text or its bytes as base64")
    data = sent.text.encode("utf-8", "replace") if sent.text is not None else _bytes(sent)
    if len(data) > PRIMER_BYTES:
        raise Refused(413, f"primer: it is larger than {PRIMER_BYTES:,} bytes; send a part of it")
    if sent.text is not None:
        return data, ".abc"
    suffix = f".{sent.name.rpartition('.')[2].lower()}"
    if suffix not in _SUFFIXES:
        suffix = ".mid" if data.startswith(b"MThd") else suffix[:12]
    if suffix not in _SUFFIXES:
        raise InvalidValue(f"primer: a file called {sent.name[:60]!r} cannot be read here; send one"
                           " of .abc, .mid")  # fmt: skip
    return data, suffix


def _bytes(sent: PrimerSent) -> bytes:
    try:
        return b64decode(sent.base64 or "", validate=True)
    except ValueError as fault:
        raise Refused(400, "primer: its base64 cannot be read") from fault
