"""The playground's HTTP API and its page.

Nothing is computed here: what takes time, or reads files that others wrote, is a job of the worker
pool. The files of the page are read once at start, so that a request can only name one of them;
recent tunes are cached by id, within a limit of bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from musicgen.checkpoint import get_package_version
from musicgen.errors import MusicgenError, escape_unprintable
from musicgen.model_folders import RUNS_FOLDER
from musicgen.web.limits import ServerLimits
from musicgen.web.middleware import LOOPBACK, RequestGuard
from musicgen.web.model_list import ModelList
from musicgen.web.request_validation import build_sample_job, build_tweak_job
from musicgen.web.run_status import RunList
from musicgen.web.saved_tunes import SavedTunes
from musicgen.web.schemas import (
    Differences,
    ErrorResponse,
    JobId,
    JobState,
    ModelInfo,
    SavedTuneResponse,
    TrainingRun,
    TuneRequest,
    TuneResponse,
    parse_tune_request,
)
from musicgen.web.worker_pool import Job, WorkerPool
from musicgen.web.worker_process import HttpError
from musicgen.web.worker_protocol import WorkerAnswer, hide_folders

_WEB_FOLDER: Final = Path(__file__).parent
FOLDERS: Final[Mapping[str, Path]] = {
    "": _WEB_FOLDER / "static",
    "render/": _WEB_FOLDER.parent / "render" / "static",
}
STATIC_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
PAGE: Final = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    data: bytes
    media_type: str
    tag: str  # changes with the bytes


def read_assets() -> dict[str, Asset]:
    """Read the files of the page, by the names that a request may give."""
    return dict(
        pair for prefix, folder in FOLDERS.items() for pair in _read_folder_assets(prefix, folder)
    )


def _read_folder_assets(prefix: str, folder: Path) -> Iterator[tuple[str, Asset]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in STATIC_MEDIA_TYPES and path.is_file():
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            yield (
                prefix + path.relative_to(folder).as_posix(),
                Asset(data, STATIC_MEDIA_TYPES[path.suffix], tag),
            )


@dataclass(frozen=True, slots=True)
class CachedTune:
    """A tune as the server holds it."""

    id: str
    recipe: str  # which makes it again
    compressed_json: bytes  # what is shown of it: JSON, compressed

    @classmethod
    def of(cls, answer: WorkerAnswer) -> CachedTune:
        """Take what a worker answered."""
        return cls(answer.head["id"], answer.head["recipe"], answer.body)

    def to_json(self, *, is_saved: bool) -> bytes:
        """Return what is shown of it as JSON."""
        flag = b'{"kept":true,' if is_saved else b'{"kept":false,'
        return flag + zlib.decompress(self.compressed_json)[1:]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.compressed_json) + len(self.recipe)


@dataclass
class TuneCache:
    """As many tunes as there is room for; those that were asked for last stay."""

    max_bytes: int  # bytes
    used_bytes: int = 0
    _tunes: OrderedDict[str, CachedTune] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._tunes)

    def add(self, tune: CachedTune) -> None:
        """Hold a tune, in place of the oldest."""
        old = self._tunes.pop(tune.id, None)
        self.used_bytes += tune.size - (old.size if old else 0)
        self._tunes[tune.id] = tune
        while self.used_bytes > self.max_bytes and len(self._tunes) > 1:
            self.used_bytes -= self._tunes.popitem(last=False)[1].size

    def find(self, id_: str) -> CachedTune | None:
        """Return a tune that is still held."""
        if id_ in self._tunes:
            self._tunes.move_to_end(id_)
        return self._tunes.get(id_)


DOWNLOAD_MEDIA_TYPES: Final = {
    "mid": "audio/midi", "abc": "text/vnd.abc; charset=utf-8", "wav": "audio/wav",
    "musicxml": "application/vnd.recordare.musicxml+xml", "svg": "image/svg+xml",
    "png": "image/png", "html": "text/html; charset=utf-8",
}  # fmt: skip
PACKAGE: Final = Path(__file__).parents[1]
MAX_ERROR_LENGTH: Final = 600  # characters of an error; what it repeats of a request may be longer
HEARTBEAT: Final = 10.0  # seconds between two words to a client that follows a job
SERVER_CLIENT: Final = "own"  # the client of what the server asks for itself
ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse} for status in (400, 403, 404, 413, 429)
}
TUNE_GONE_MESSAGE: Final = (
    "the tune is not at hand any more: only the last ones are, and those kept on the shelf"
)


class Playground:
    """What the routes share."""

    def __init__(self, folder: Path, runs: Path, limits: ServerLimits) -> None:
        self.limits = limits
        self.folders = (folder, runs, PACKAGE, PACKAGE.parent)
        self.worker_pool = WorkerPool(runs, limits, self._cache_tune)
        self.tune_cache = TuneCache(limits.tune_cache_bytes)
        self.saved_tunes = SavedTunes(folder, self._describe_files)
        self.models = ModelList(runs)
        self.runs = RunList(runs)
        self.assets = read_assets()

    def _cache_tune(self, _: Job, answer: WorkerAnswer) -> None:
        if "recipe" in answer.head:
            self.tune_cache.add(CachedTune.of(answer))

    async def _describe_files(self, files: list[bytes]) -> list[dict[str, Any] | None]:
        answer = await self.worker_pool.submit_and_wait(
            SERVER_CLIENT, b"".join(files), do="describe", sizes=[*map(len, files)]
        )
        found: list[dict[str, Any] | None] = answer.head["files"]
        return found

    async def get_tune(self, id_: str, client: str) -> CachedTune:
        """Return a tune that is at hand, or on the shelf. Raises Refused."""
        made = self.tune_cache.find(id_)
        if made is not None:
            return made
        data = await self.saved_tunes.read(id_)
        if data is None:
            raise HttpError(404, TUNE_GONE_MESSAGE)
        answer = await self.worker_pool.submit_and_wait(client, data, do="recall")
        return CachedTune.of(answer)

    def format_error(self, message: str) -> str:
        """Return an error as one line of bounded length, which names no folder of this machine."""
        return escape_unprintable(hide_folders(message[: 4 * MAX_ERROR_LENGTH], self.folders))[
            :MAX_ERROR_LENGTH
        ]

    async def build_tune_response(self, tune: CachedTune) -> Response:
        """Return everything that a page shows of a tune."""
        is_kept = await self.saved_tunes.has(tune.id)
        body = await asyncio.to_thread(tune.to_json, is_saved=is_kept)
        return Response(body, media_type="application/json")


def create_app(
    folder: Path,
    *,
    runs: Path = RUNS_FOLDER,
    limits: ServerLimits | None = None,
    hosts: Collection[str] = LOOPBACK,
    allow_ip_hosts: bool = False,
) -> FastAPI:
    """Make the server's app: tunes are kept in a folder, models and runs are found in another.

    hosts: the names by which it may be called, besides addresses in numbers where those may.
    """
    place = Playground(folder, runs, limits or ServerLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        place.worker_pool.start()
        yield
        await place.worker_pool.stop()

    app = FastAPI(
        title="musicgen", version=get_package_version("musicgen"), docs_url=None, redoc_url=None,
        lifespan=lifespan, responses=ERROR_RESPONSES,
    )  # fmt: skip
    app.state.playground = place
    app.add_middleware(
        RequestGuard,
        limits=place.limits,
        upload_budget=place.worker_pool.upload_budget,
        hosts=hosts,
        allow_ip_hosts=allow_ip_hosts,
    )
    app.add_exception_handler(Exception, _handle_unexpected_error)
    for kind in (MusicgenError, HTTPException):
        app.add_exception_handler(kind, _handle_error)
    _add_jobs(app, place)
    _add_tunes(app, place)
    _add_saved_tune_routes(app, place)
    _add_training(app, place)
    _add_pages(app, place)
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Complete /openapi.json: the body that we parse ourselves; a bad request is a 400, not 422."""
    described = app.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = described["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, found = msgspec.json.schema_components(
        [TuneRequest], ref_template="#/components/schemas/{name}"
    )
    schemas |= found


def identify_client(request: Request, token: str) -> str:
    """Tell clients apart: by their address, and the token that a page chose for itself."""
    host = request.client.host if request.client else ""
    return f"{host} {token[:64]}"


TUNE_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TuneRequest"}}},
    }
}
ClientToken = Annotated[str, Header(alias="X-Client", description="whose turn it is: any word")]


def _add_jobs(app: FastAPI, playground: Playground) -> None:
    crew = playground.worker_pool

    @app.get("/api/models", response_model=list[ModelInfo])
    async def models() -> Any:
        """List the models that can be asked for tunes."""
        return await asyncio.to_thread(playground.models.to_json)

    @app.post("/api/jobs", status_code=202, response_model=JobId, openapi_extra=TUNE_REQUEST_BODY)
    async def submit(request: Request, token: ClientToken = "") -> Any:
        """Ask for a tune, or a near variant of one."""
        client = identify_client(request, token)
        ask = await asyncio.to_thread(parse_tune_request, await request.body())
        if ask.do == "sample":
            return {"id": crew.submit(await asyncio.to_thread(build_sample_job, ask, client)).id}
        if ask.of is None:
            raise HttpError(400, "of: name the tune that is to be varied")
        made = await playground.get_tune(ask.of, client)
        job = await asyncio.to_thread(build_tweak_job, ask, client, made.recipe)
        return {"id": crew.submit(job).id}

    @app.get("/api/jobs/{id}", response_model=JobState)
    async def job(id: str) -> Any:  # noqa: A002 - the name in the path
        """Say how a job stands."""
        return _job_to_json(playground, crew.find(id))

    @app.get("/api/jobs/{id}/events", response_model=None)
    async def events(id: str) -> Response:  # noqa: A002 - the name in the path
        """Follow a job until it ends, as server-sent events of the same JSON."""
        found = crew.find(id)
        return StreamingResponse(
            _stream_job_events(playground, found), media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    @app.delete("/api/jobs/{id}", response_model=JobState)
    async def cancel(id: str) -> Any:  # noqa: A002 - the name in the path
        """Want a job no longer."""
        crew.cancel(crew.find(id))
        return _job_to_json(playground, crew.find(id))


def _job_to_json(playground: Playground, job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "ahead": playground.worker_pool.queue.count_ahead(job),
        "bars": job.bars,
        "of": job.total_bars,
        "tune": job.tune,
        "error": playground.format_error(str(job.fault)) if job.fault else None,
    }


async def _stream_job_events(playground: Playground, job: Job) -> AsyncIterator[str]:
    """Yield what there is to say of a job whenever that changes, or it was quiet for a while."""
    said = ""
    while True:
        is_over = job.is_finished
        told = json.dumps(_job_to_json(playground, job))
        yield f"data: {told}\n\n" if told != said else ": still here\n\n"
        said = told
        if is_over:
            return
        await job.wait_for_change(HEARTBEAT if job.state == "working" else 1.0)


def _add_tunes(app: FastAPI, playground: Playground) -> None:
    @app.get("/api/tunes/{id}", response_model=TuneResponse)
    async def tune(id: str, request: Request, token: ClientToken = "") -> Any:  # noqa: A002
        """Return everything that a page shows of a tune."""
        return await playground.build_tune_response(
            await playground.get_tune(id, identify_client(request, token))
        )

    @app.get("/api/tunes/{id}/file/{suffix}", response_class=Response)
    async def file(id: str, suffix: str, request: Request, token: ClientToken = "") -> Response:  # noqa: A002
        """Download a tune: mid, abc, musicxml, wav, svg, png or html."""
        if suffix not in DOWNLOAD_MEDIA_TYPES:
            raise HttpError(
                404, f"a tune has no file of that kind; there are {', '.join(DOWNLOAD_MEDIA_TYPES)}"
            )
        client = identify_client(request, token)
        made = await playground.get_tune(id, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="file", recipe=made.recipe, suffix=suffix
        )
        name = f"{answer.head.get('name') or made.id}.{suffix}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(answer.body, media_type=DOWNLOAD_MEDIA_TYPES[suffix], headers=headers)

    @app.get("/api/tunes/{a}/differences/{b}", response_model=Differences)
    async def compare(a: str, b: str, request: Request, token: ClientToken = "") -> Any:
        """Say where two tunes differ."""
        client = identify_client(request, token)
        one, other = await playground.get_tune(a, client), await playground.get_tune(b, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="differences", recipe_a=one.recipe, recipe_b=other.recipe
        )
        return answer.head


def _add_saved_tune_routes(app: FastAPI, playground: Playground) -> None:
    def listed() -> list[dict[str, Any]]:
        """List what is known already: what was done stays done, whoever can look again or not."""
        return [entry.to_json() for entry in playground.saved_tunes.get_cached_tunes()]

    @app.get("/api/shelf", response_model=list[SavedTuneResponse])
    async def shelf() -> Any:
        """List the tunes that are kept, the latest first."""
        return [entry.to_json() for entry in await playground.saved_tunes.list_tunes()]

    @app.put("/api/shelf/{id}", response_model=list[SavedTuneResponse])
    async def keep(id: str, request: Request, token: ClientToken = "") -> Any:  # noqa: A002
        """Keep a tune, as a MIDI file with its recipe; return the shelf."""
        client = identify_client(request, token)
        made = await playground.get_tune(id, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="file", recipe=made.recipe, suffix="mid"
        )
        await playground.saved_tunes.save(made.id, answer.body)
        return listed()

    @app.delete("/api/shelf/{id}", response_model=list[SavedTuneResponse])
    async def drop(id: str) -> Any:  # noqa: A002
        """Take a tune off the shelf: its file is removed; return the shelf."""
        await playground.saved_tunes.remove(id)
        return listed()


def _add_training(app: FastAPI, playground: Playground) -> None:
    @app.get("/api/training", response_model=list[TrainingRun])
    async def training() -> Any:
        """List the runs in ./checkpoints with their curves, the newest first."""
        return await asyncio.to_thread(playground.runs.to_json)

    @app.get("/api/training/{run}/tune", response_model=TuneResponse)
    async def heard(run: str, request: Request, token: ClientToken = "") -> Any:
        """Return a tune of a run's best model so far."""
        answer = await playground.worker_pool.submit_and_wait(
            identify_client(request, token), do="heard", run=run[:200]
        )
        return await playground.build_tune_response(CachedTune.of(answer))


def _add_pages(app: FastAPI, playground: Playground) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _build_asset_response(playground.assets.get(PAGE), request)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return _build_asset_response(playground.assets.get(name), request)


def _build_asset_response(asset: Asset | None, request: Request) -> Response:
    if asset is None:
        raise HttpError(404, "there is nothing of that name")
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


# Faults


async def _handle_error(request: Request, fault: Exception) -> Response:
    """Answer with why not, in one line."""
    status, words = 400, str(fault)
    if isinstance(fault, HttpError):
        status = fault.status
    elif isinstance(fault, HTTPException):
        status, words = fault.status_code, str(fault.detail)
    place: Playground = request.app.state.playground
    return JSONResponse({"error": place.format_error(words)}, status)


async def _handle_unexpected_error(_: Request, fault: Exception) -> Response:
    """Tell that it is our fault; what it was stands on the terminal."""
    return JSONResponse({"error": f"the server failed at it ({type(fault).__name__})"}, 500)
