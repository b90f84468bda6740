"""What a client asks for, checked before it waits: wishes, primers, what a variant changes."""

from __future__ import annotations

import secrets
from base64 import b64decode
from typing import Any, Final

from msgspec import UNSET

from musicgen.errors import InvalidValue
from musicgen.sampling.infill import parse_bars
from musicgen.sampling.option_table import OPTIONS_BY_NAME
from musicgen.sampling.options import SamplingOptions
from musicgen.web.limits import PRIMER_BYTES
from musicgen.web.schemas import PrimerUpload, TuneRequest
from musicgen.web.worker_pool import Job
from musicgen.web.worker_process import HttpError

_PRIMER_SUFFIXES: Final = (".abc", ".mid", ".midi")


def build_sample_job(tune_request: TuneRequest, client: str) -> Job:
    """Return the job of a new tune. Raises Refused, InvalidValue."""
    if tune_request.of is not None or tune_request.keep is not None:
        raise HttpError(400, "of, keep: these belong to a tweak; leave them out of a sample")
    wishes = get_requested_options(tune_request)
    found = SamplingOptions.parse(**wishes)
    seed = secrets.randbelow(2**31) if tune_request.seed is None else tune_request.seed
    payload, suffix = (
        (b"", None) if tune_request.primer is None else decode_primer(tune_request.primer)
    )
    request = {
        "do": "sample",
        "model": tune_request.model,
        "wishes": wishes,
        "seed": seed,
        "primer": suffix,
    }
    return Job(client, request, payload, total_bars=count_requested_bars(found))


def build_tweak_job(tune_request: TuneRequest, client: str, recipe: str) -> Job:
    """Return the job of a near variant. Raises Refused, InvalidValue."""
    if tune_request.primer is not None:
        raise HttpError(400, "primer: it belongs to a sample; leave it out of a tweak")
    wishes = {
        name: OPTIONS_BY_NAME[name].default if value is None else value
        for name, value in get_requested_options(tune_request, include_nulls=True).items()
    }
    SamplingOptions.parse(**wishes)
    if tune_request.keep is not None:
        parse_bars(tune_request.keep)
    request = {"do": "tweak", "recipe": recipe, "wishes": wishes, "seed": tune_request.seed,
               "keep": tune_request.keep}  # fmt: skip
    return Job(client, request)


def get_requested_options(
    tune_request: TuneRequest, *, include_nulls: bool = False
) -> dict[str, Any]:
    """Return the wishes that are named; unset: those named as null too, which a variant frees."""
    values = {name: getattr(tune_request, name) for name in OPTIONS_BY_NAME}
    named = {name: value for name, value in values.items() if value is not UNSET}
    return {name: value for name, value in named.items() if include_nulls or value is not None}


def count_requested_bars(options: SamplingOptions) -> int | None:
    """Return how many bars are to be written, where that is known: a repeated part once."""
    layout = options.layout
    return sum(one.bars for one in layout.sections) if layout else options.bars


def decode_primer(upload: PrimerUpload) -> tuple[bytes, str]:
    """Return the bytes of a primer and the suffix of its format. Raises Refused, InvalidValue."""
    if (upload.text is None) == (upload.base64 is None):
        raise HttpError(400, "primer: send either its text or its bytes as base64")
    data = (
        upload.text.encode("utf-8", "replace")
        if upload.text is not None
        else _decode_base64(upload)
    )
    if len(data) > PRIMER_BYTES:
        raise HttpError(413, f"primer: it is larger than {PRIMER_BYTES:,} bytes; send a part of it")
    if upload.text is not None:
        return data, ".abc"
    suffix = f".{upload.name.rpartition('.')[2].lower()}"
    if suffix not in _PRIMER_SUFFIXES:
        suffix = ".mid" if data.startswith(b"MThd") else suffix[:12]
    if suffix not in _PRIMER_SUFFIXES:
        raise InvalidValue(
            f"primer: a file called {upload.name[:60]!r} cannot be read here; send one"
            " of .abc, .mid"
        )
    return data, suffix


def _decode_base64(upload: PrimerUpload) -> bytes:
    try:
        return b64decode(upload.base64 or "", validate=True)
    except ValueError as fault:
        raise HttpError(400, "primer: its base64 cannot be read") from fault
