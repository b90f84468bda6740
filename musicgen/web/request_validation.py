"""Build jobs from requests, after checking options, primers and bars to keep."""

from __future__ import annotations

import secrets
from base64 import b64decode
from typing import Any

from msgspec import UNSET

from musicgen.errors import InvalidValue
from musicgen.sampling.infill import parse_bars
from musicgen.sampling.option_table import OPTIONS_BY_NAME
from musicgen.sampling.options import SamplingOptions
from musicgen.web.limits import PRIMER_BYTES, PRIMER_SUFFIXES
from musicgen.web.schemas import PrimerUpload, TuneRequest
from musicgen.web.worker_pool import Job
from musicgen.web.worker_process import HttpError


def build_sample_job(tune_request: TuneRequest, client: str) -> Job:
    """Return the job that samples a new tune.

    Raises:
        HttpError: the request has fields of a tweak, or a primer that cannot be used.
        InvalidValue: an option or the primer is invalid.
    """
    if tune_request.of is not None or tune_request.keep is not None:
        raise HttpError(400, "of, keep: only a tweak has these; leave them out of a sample")
    named_options = get_named_options(tune_request)
    options = SamplingOptions.parse(**named_options)
    seed = secrets.randbelow(2**31) if tune_request.seed is None else tune_request.seed
    payload, suffix = (
        (b"", None) if tune_request.primer is None else decode_primer(tune_request.primer)
    )
    request = {
        "do": "sample",
        "model": tune_request.model,
        "wishes": named_options,
        "seed": seed,
        "primer": suffix,
    }
    return Job(client, request, payload, total_bars=count_bars_to_write(options))


def build_tweak_job(tune_request: TuneRequest, client: str, recipe: str) -> Job:
    """Return the job that makes a variant of the tune of a recipe.

    Raises:
        HttpError: the request has a primer.
        InvalidValue: an option or `keep` is invalid.
    """
    if tune_request.primer is not None:
        raise HttpError(400, "primer: only a sample has one; leave it out of a tweak")
    changes = {
        name: OPTIONS_BY_NAME[name].default if value is None else value
        for name, value in get_named_options(tune_request, include_nulls=True).items()
    }
    SamplingOptions.parse(**changes)
    if tune_request.keep is not None:
        parse_bars(tune_request.keep)
    request = {"do": "tweak", "recipe": recipe, "wishes": changes, "seed": tune_request.seed,
               "keep": tune_request.keep}  # fmt: skip
    return Job(client, request)


def get_named_options(tune_request: TuneRequest, *, include_nulls: bool = False) -> dict[str, Any]:
    """Return the sampling options that a request names.

    Args:
        tune_request: the request.
        include_nulls: include options that are null, which a tweak resets to their defaults.
    """
    values = {name: getattr(tune_request, name) for name in OPTIONS_BY_NAME}
    named = {name: value for name, value in values.items() if value is not UNSET}
    return {name: value for name, value in named.items() if include_nulls or value is not None}


def count_bars_to_write(options: SamplingOptions) -> int | None:
    """Return the number of bars to write, repeated sections once; None if unknown."""
    layout = options.layout
    return sum(section.bars for section in layout.sections) if layout else options.bars


def decode_primer(upload: PrimerUpload) -> tuple[bytes, str]:
    """Return the bytes of a primer, and the suffix of its format.

    Raises:
        HttpError: the upload has not exactly one of text and base64, or is too large.
        InvalidValue: the format is not ABC or MIDI.
    """
    if (upload.text is None) == (upload.base64 is None):
        raise HttpError(400, "primer: send either its text or its bytes as base64")
    data = (
        upload.text.encode("utf-8", "replace")
        if upload.text is not None
        else _decode_base64(upload)
    )
    if len(data) > PRIMER_BYTES:
        raise HttpError(413, f"primer: larger than {PRIMER_BYTES:,} bytes; send a shorter one")
    if upload.text is not None:
        return data, ".abc"
    suffix = f".{upload.name.rpartition('.')[2].lower()}"
    if suffix not in PRIMER_SUFFIXES:
        suffix = ".mid" if data.startswith(b"MThd") else suffix[:12]
    if suffix not in PRIMER_SUFFIXES:
        raise InvalidValue(f"primer: unsupported format of {upload.name[:60]!r}; send .abc or .mid")
    return data, suffix


def _decode_base64(upload: PrimerUpload) -> bytes:
    try:
        return b64decode(upload.base64 or "", validate=True)
    except ValueError as fault:
        raise HttpError(
            400, "primer: invalid base64; encode the bytes of the file again"
        ) from fault
