"""The playground's HTTP API and its page.

The routes do not compute: slow work, and all parsing of untrusted files, is a job of the worker
pool. The files of the page are read once at start, so that no request reaches another file. Recent
tunes are cached by id, within a limit of bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
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
from musicgen.web.models_and_runs import ModelList, RunList
from musicgen.web.saved_tunes import SavedTunes
from musicgen.web.schemas import (
    Differences,
    ErrorResponse,
    FileParts,
    JobId,
    JobState,
    ModelInfo,
    NotesUpload,
    SavedTuneResponse,
    TrainingRun,
    TuneRequest,
    TuneResponse,
    TuneSurprise,
    build_sample_job,
    build_tweak_job,
    decode_notes,
    parse_notes_upload,
    parse_tune_request,
)
from musicgen.web.worker_pool import Job, WorkerPool
from musicgen.web.worker_process import HttpError, WorkerAnswer

PACKAGE: Final = Path(__file__).parents[1]
STATIC_FOLDERS: Final[Mapping[str, Path]] = {  # prefix of the URL -> folder
    "": PACKAGE / "web" / "static",
    "render/": PACKAGE / "render" / "static",
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
DOWNLOAD_MEDIA_TYPES: Final = {
    "mid": "audio/midi", "abc": "text/vnd.abc; charset=utf-8", "wav": "audio/wav",
    "musicxml": "application/vnd.recordare.musicxml+xml", "svg": "image/svg+xml",
    "png": "image/png", "html": "text/html; charset=utf-8",
}  # fmt: skip
PAGE: Final = "index.html"
MAX_ERROR_LENGTH: Final = 600  # characters; an error may quote a longer request
HEARTBEAT_SECONDS: Final = 10.0  # between events for a client that follows a job
SERVER_CLIENT: Final = "own"  # the client of the server's own jobs
ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse} for status in (400, 403, 404, 413, 429)
}
TUNE_GONE_MESSAGE: Final = (
    "the tune is no longer available: only recent and saved tunes are; generate it again"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    data: bytes
    media_type: str
    etag: str  # hash of the data


def read_assets() -> dict[str, Asset]:
    """Read the files of the page, by their paths below /static/."""
    return dict(
        pair
        for prefix, folder in STATIC_FOLDERS.items()
        for pair in _read_folder_assets(prefix, folder)
    )


def _read_folder_assets(prefix: str, folder: Path) -> Iterator[tuple[str, Asset]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in STATIC_MEDIA_TYPES and path.is_file():
            data = path.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            yield (
                prefix + path.relative_to(folder).as_posix(),
                Asset(data, STATIC_MEDIA_TYPES[path.suffix], etag),
            )


@dataclass(frozen=True, slots=True)
class CachedTune:
    """A tune in the cache of the server."""

    id: str
    recipe: str
    compressed_json: bytes  # `TuneResponse` without `kept`, compressed with zlib
    drawn: str | None = None  # its ids, as a worker wrote them

    @classmethod
    def of(cls, answer: WorkerAnswer) -> CachedTune:
        """Make the entry from a worker's answer."""
        return cls(answer.head["id"], answer.head["recipe"], answer.body, answer.head.get("drawn"))

    @property
    def source(self) -> dict[str, Any]:
        """The arguments by which any worker finds the tune without drawing it again."""
        return {"recipe": self.recipe, "drawn": self.drawn}

    def to_json(self, *, is_saved: bool) -> bytes:
        """Return the JSON of a `TuneResponse`."""
        flag = b'{"kept":true,' if is_saved else b'{"kept":false,'
        return flag + zlib.decompress(self.compressed_json)[1:]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.compressed_json) + len(self.recipe) + len(self.drawn or "")


@dataclass
class TuneCache:
    """Cache of tunes with a limit of bytes; the least recently used are dropped."""

    max_bytes: int
    used_bytes: int = 0
    _tunes: OrderedDict[str, CachedTune] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._tunes)

    def add(self, tune: CachedTune) -> None:
        """Add a tune, and drop old ones beyond the limit."""
        previous = self._tunes.pop(tune.id, None)
        self.used_bytes += tune.size - (previous.size if previous else 0)
        self._tunes[tune.id] = tune
        while self.used_bytes > self.max_bytes and len(self._tunes) > 1:
            self.used_bytes -= self._tunes.popitem(last=False)[1].size

    def find(self, id_: str) -> CachedTune | None:
        """Return a tune by its id, or None."""
        if id_ in self._tunes:
            self._tunes.move_to_end(id_)
        return self._tunes.get(id_)


class Playground:
    """The state that the routes share."""

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
        descriptions: list[dict[str, Any] | None] = answer.head["files"]
        return descriptions

    async def get_tune(self, id_: str, client: str) -> CachedTune:
        """Return a cached or saved tune.

        Raises:
            HttpError: the tune is neither cached nor saved, or cannot be restored from its file.
        """
        cached = self.tune_cache.find(id_)
        if cached is not None:
            return cached
        data = await self.saved_tunes.read(id_)
        if data is None:
            raise HttpError(404, TUNE_GONE_MESSAGE)
        answer = await self.worker_pool.submit_and_wait(client, data, do="recall")
        return CachedTune.of(answer)

    def format_error(self, message: str) -> str:
        """Return an error as one line of bounded length, without the folders of this machine."""
        text = _hide_folders(message[: 4 * MAX_ERROR_LENGTH], self.folders)
        return escape_unprintable(text)[:MAX_ERROR_LENGTH]

    async def build_tune_response(self, tune: CachedTune) -> Response:
        """Return the response with everything that a page shows of a tune."""
        is_saved = await self.saved_tunes.has(tune.id)
        body = await asyncio.to_thread(tune.to_json, is_saved=is_saved)
        return Response(body, media_type="application/json")


def _hide_folders(text: str, folders: Iterable[Path]) -> str:
    """Remove the paths of folders from a text; the names of the files in them stay."""
    paths = {str(path) for folder in folders for path in (folder.absolute(), folder.resolve())}
    for path in sorted(paths - {"/"}, key=len, reverse=True):
        text = text.replace(f"{path}/", "").replace(path, Path(path).name)
    return text


def create_app(
    folder: Path,
    *,
    runs: Path = RUNS_FOLDER,
    limits: ServerLimits | None = None,
    hosts: Collection[str] = LOOPBACK,
    allow_ip_hosts: bool = False,
) -> FastAPI:
    """Create the playground's app.

    Args:
        folder: where saved tunes are stored.
        runs: where models and training runs are found.
        limits: what a client may cost the server.
        hosts: values of the header Host, without ports, that the server accepts.
        allow_ip_hosts: accept any IP address as Host too.
    """
    playground = Playground(folder, runs, limits or ServerLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        playground.worker_pool.start()
        yield
        await playground.worker_pool.stop()

    app = FastAPI(
        title="musicgen", version=get_package_version("musicgen"), docs_url=None, redoc_url=None,
        lifespan=lifespan, responses=ERROR_RESPONSES,
    )  # fmt: skip
    app.state.playground = playground
    app.add_middleware(
        RequestGuard,
        limits=playground.limits,
        upload_budget=playground.worker_pool.upload_budget,
        hosts=hosts,
        allow_ip_hosts=allow_ip_hosts,
    )
    app.add_exception_handler(Exception, _handle_unexpected_error)
    for error_class in (MusicgenError, HTTPException):
        app.add_exception_handler(error_class, _handle_error)
    _add_job_routes(app, playground)
    _add_tune_routes(app, playground)
    _add_saved_tune_routes(app, playground)
    _add_training_routes(app, playground)
    _add_page_routes(app, playground)
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Add the body that we parse ourselves to /openapi.json; a bad request is a 400, not a 422."""
    description = app.openapi()
    for path in description["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = description["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, request_schemas = msgspec.json.schema_components(
        [TuneRequest, NotesUpload], ref_template="#/components/schemas/{name}"
    )
    schemas |= request_schemas


def identify_client(request: Request, token: str) -> str:
    """Return a client's identity: its address, and the token that it chose."""
    host = request.client.host if request.client else ""
    return f"{host} {token[:64]}"


def _describe_body(schema: str) -> dict[str, Any]:
    """Describe a body that we parse ourselves, for /openapi.json."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


TUNE_REQUEST_BODY: Final = _describe_body("TuneRequest")
NOTES_UPLOAD_BODY: Final = _describe_body("NotesUpload")
ClientToken = Annotated[str, Header(alias="X-Client", description="client identifier")]


def _add_job_routes(app: FastAPI, playground: Playground) -> None:
    worker_pool = playground.worker_pool

    @app.get("/api/models", response_model=list[ModelInfo])
    async def models() -> Any:
        """List the models."""
        return await asyncio.to_thread(playground.models.to_json)

    @app.post("/api/jobs", status_code=202, response_model=JobId, openapi_extra=TUNE_REQUEST_BODY)
    async def submit(request: Request, token: ClientToken = "") -> Any:
        """Submit a job that generates a tune, or a variant of a tune."""
        client = identify_client(request, token)
        tune_request = await asyncio.to_thread(parse_tune_request, await request.body())
        if tune_request.do == "sample":
            job = await asyncio.to_thread(build_sample_job, tune_request, client)
        elif tune_request.of is None:
            raise HttpError(400, "of: missing; name the tune to vary")
        else:
            tune = await playground.get_tune(tune_request.of, client)
            job = await asyncio.to_thread(
                build_tweak_job, tune_request, client, tune.recipe, tune.drawn
            )
        return {"id": worker_pool.submit(job).id}

    @app.get("/api/jobs/{id}", response_model=JobState)
    async def job(id: str) -> Any:  # noqa: A002 - the name in the path
        """Get job status."""
        return _job_to_json(playground, worker_pool.find(id))

    @app.get("/api/jobs/{id}/events", response_model=None)
    async def events(id: str) -> Response:  # noqa: A002 - the name in the path
        """Stream job status as server-sent events until the job ends."""
        return StreamingResponse(
            _stream_job_events(playground, worker_pool.find(id)), media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    @app.delete("/api/jobs/{id}", response_model=JobState)
    async def cancel(id: str) -> Any:  # noqa: A002 - the name in the path
        """Cancel a job."""
        worker_pool.cancel(worker_pool.find(id))
        return _job_to_json(playground, worker_pool.find(id))


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
    """Yield an event whenever the status changes, and a comment as a heartbeat."""
    previous = ""
    while True:
        is_finished = job.is_finished
        status = json.dumps(_job_to_json(playground, job))
        yield f"data: {status}\n\n" if status != previous else ": still here\n\n"
        previous = status
        if is_finished:
            return
        await job.wait_for_change(HEARTBEAT_SECONDS if job.state == "working" else 1.0)


def _add_tune_routes(app: FastAPI, playground: Playground) -> None:
    @app.get("/api/tunes/{id}", response_model=TuneResponse)
    async def tune(id: str, request: Request, token: ClientToken = "") -> Any:  # noqa: A002
        """Get a tune: score, sound, recipe and receipt."""
        return await playground.build_tune_response(
            await playground.get_tune(id, identify_client(request, token))
        )

    @app.get("/api/tunes/{id}/file/{suffix}", response_class=Response)
    async def file(id: str, suffix: str, request: Request, token: ClientToken = "") -> Response:  # noqa: A002
        """Download a tune as mid, abc, musicxml, wav, svg, png or html."""
        if suffix not in DOWNLOAD_MEDIA_TYPES:
            raise HttpError(
                404, f"unknown file format; choose one of {', '.join(DOWNLOAD_MEDIA_TYPES)}"
            )
        client = identify_client(request, token)
        tune = await playground.get_tune(id, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="file", **tune.source, suffix=suffix
        )
        name = f"{answer.head.get('name') or tune.id}.{suffix}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(answer.body, media_type=DOWNLOAD_MEDIA_TYPES[suffix], headers=headers)

    @app.get("/api/tunes/{a}/differences/{b}", response_model=Differences)
    async def compare(a: str, b: str, request: Request, token: ClientToken = "") -> Any:
        """Compare two tunes bar by bar."""
        client = identify_client(request, token)
        tune_a = await playground.get_tune(a, client)
        tune_b = await playground.get_tune(b, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="differences", a=tune_a.source, b=tune_b.source
        )
        return answer.head

    @app.get("/api/tunes/{id}/surprise", response_model=TuneSurprise)
    async def surprise(id: str, request: Request, token: ClientToken = "") -> Any:  # noqa: A002
        """Get the surprise of a tune: the bits of each note."""
        client = identify_client(request, token)
        tune = await playground.get_tune(id, client)
        answer = await playground.worker_pool.submit_and_wait(client, do="surprise", **tune.source)
        return answer.head

    @app.post("/api/parts", response_model=FileParts, openapi_extra=NOTES_UPLOAD_BODY)
    async def parts(request: Request, token: ClientToken = "") -> Any:
        """List the parts of a file, which a tune may then be drawn around."""
        client = identify_client(request, token)
        upload = await asyncio.to_thread(parse_notes_upload, await request.body())
        payload, suffix = await asyncio.to_thread(decode_notes, upload, "the file")
        answer = await playground.worker_pool.submit_and_wait(
            client, payload, do="parts", suffix=suffix
        )
        return answer.head


def _add_saved_tune_routes(app: FastAPI, playground: Playground) -> None:
    def cached_list() -> list[dict[str, Any]]:
        """Return the list without another look at the folder, which could fail after a change."""
        return [entry.to_json() for entry in playground.saved_tunes.get_cached_tunes()]

    @app.get("/api/shelf", response_model=list[SavedTuneResponse])
    async def shelf() -> Any:
        """List the saved tunes, the latest first."""
        return [entry.to_json() for entry in await playground.saved_tunes.list_tunes()]

    @app.put("/api/shelf/{id}", response_model=list[SavedTuneResponse])
    async def keep(id: str, request: Request, token: ClientToken = "") -> Any:  # noqa: A002
        """Save a tune as a MIDI file with its recipe; return the list of saved tunes."""
        client = identify_client(request, token)
        tune = await playground.get_tune(id, client)
        answer = await playground.worker_pool.submit_and_wait(
            client, do="file", **tune.source, suffix="mid"
        )
        await playground.saved_tunes.save(tune.id, answer.body)
        return cached_list()

    @app.delete("/api/shelf/{id}", response_model=list[SavedTuneResponse])
    async def drop(id: str) -> Any:  # noqa: A002
        """Delete the file of a saved tune; return the list of saved tunes."""
        await playground.saved_tunes.remove(id)
        return cached_list()


def _add_training_routes(app: FastAPI, playground: Playground) -> None:
    @app.get("/api/training", response_model=list[TrainingRun])
    async def training() -> Any:
        """List the training runs in ./checkpoints with their curves, the newest first."""
        return await asyncio.to_thread(playground.runs.to_json)

    @app.get("/api/training/{run}/tune", response_model=TuneResponse)
    async def heard(run: str, request: Request, token: ClientToken = "") -> Any:
        """Generate a tune with the best model of a training run so far."""
        answer = await playground.worker_pool.submit_and_wait(
            identify_client(request, token), do="heard", run=run[:200]
        )
        return await playground.build_tune_response(CachedTune.of(answer))


def _add_page_routes(app: FastAPI, playground: Playground) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _build_asset_response(playground.assets.get(PAGE), request)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return _build_asset_response(playground.assets.get(name), request)


def _build_asset_response(asset: Asset | None, request: Request) -> Response:
    if asset is None:
        raise HttpError(404, "no such file; reload the page")
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


# Errors


async def _handle_error(request: Request, error: Exception) -> Response:
    """Respond with the status and the message of an error, in one line."""
    status, message = 400, str(error)
    if isinstance(error, HttpError):
        status = error.status
    elif isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    playground: Playground = request.app.state.playground
    return JSONResponse({"error": playground.format_error(message)}, status)


async def _handle_unexpected_error(_: Request, error: Exception) -> Response:
    """Respond to an internal error, which uvicorn logs on the terminal."""
    message = f"the server failed with an internal error ({type(error).__name__}); try again"
    return JSONResponse({"error": message}, 500)
