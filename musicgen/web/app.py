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

from musicgen.checkpoint import version_of
from musicgen.errors import MusicgenError, printable
from musicgen.tune import RUNS
from musicgen.web.limits import Limits
from musicgen.web.middleware import LOOPBACK, Gate
from musicgen.web.model_list import Models
from musicgen.web.request_validation import sample_job, tweak_job
from musicgen.web.run_status import Runs
from musicgen.web.saved_tunes import Shelf
from musicgen.web.schemas import (
    Ask,
    Differences,
    Fault,
    JobId,
    JobState,
    Kept,
    ModelAbout,
    Training,
    TuneShown,
    read_ask,
)
from musicgen.web.worker_pool import Crew, Job
from musicgen.web.worker_process import Refused
from musicgen.web.worker_protocol import Answer, hide_folders

_ROOM: Final = Path(__file__).parent
FOLDERS: Final[Mapping[str, Path]] = {
    "": _ROOM / "static",
    "render/": _ROOM.parent / "render" / "static",
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
    kind: str
    tag: str  # changes with the bytes


def read_assets() -> dict[str, Asset]:
    """Read the files of the page, by the names that a request may give."""
    return dict(pair for prefix, folder in FOLDERS.items() for pair in _found(prefix, folder))


def _found(prefix: str, folder: Path) -> Iterator[tuple[str, Asset]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in STATIC_MEDIA_TYPES and path.is_file():
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            yield (
                prefix + path.relative_to(folder).as_posix(),
                Asset(data, STATIC_MEDIA_TYPES[path.suffix], tag),
            )


@dataclass(frozen=True, slots=True)
class Made:
    """A tune as the server holds it."""

    id: str
    recipe: str  # which makes it again
    packed: bytes  # what is shown of it: JSON, compressed

    @classmethod
    def of(cls, answer: Answer) -> Made:
        """Take what a worker answered."""
        return cls(answer.head["id"], answer.head["recipe"], answer.body)

    def body(self, *, kept: bool) -> bytes:
        """Return what is shown of it as JSON."""
        flag = b'{"kept":true,' if kept else b'{"kept":false,'
        return flag + zlib.decompress(self.packed)[1:]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.packed) + len(self.recipe)


@dataclass
class Tunes:
    """As many tunes as there is room for; those that were asked for last stay."""

    room: int  # bytes
    taken: int = 0
    _made: OrderedDict[str, Made] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._made)

    def add(self, made: Made) -> None:
        """Hold a tune, in place of the oldest."""
        old = self._made.pop(made.id, None)
        self.taken += made.size - (old.size if old else 0)
        self._made[made.id] = made
        while self.taken > self.room and len(self._made) > 1:
            self.taken -= self._made.popitem(last=False)[1].size

    def find(self, id_: str) -> Made | None:
        """Return a tune that is still held."""
        if id_ in self._made:
            self._made.move_to_end(id_)
        return self._made.get(id_)


KINDS: Final = {
    "mid": "audio/midi", "abc": "text/vnd.abc; charset=utf-8", "wav": "audio/wav",
    "musicxml": "application/vnd.recordare.musicxml+xml", "svg": "image/svg+xml",
    "png": "image/png", "html": "text/html; charset=utf-8",
}  # fmt: skip
PACKAGE: Final = Path(__file__).parents[1]
MOST_WORDS: Final = 600  # characters of an error; what it repeats of a request may be longer
HEARTBEAT: Final = 10.0  # seconds between two words to a client that follows a job
OWN: Final = "own"  # the client of what the server asks for itself
FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Fault} for status in (400, 403, 404, 413, 429)
}
GONE: Final = (
    "the tune is not at hand any more: only the last ones are, and those kept on the shelf"
)


class Playground:
    """What the routes share."""

    def __init__(self, folder: Path, runs: Path, limits: Limits) -> None:
        self.limits = limits
        self.folders = (folder, runs, PACKAGE, PACKAGE.parent)
        self.crew = Crew(runs, limits, self._made)
        self.tunes = Tunes(limits.tunes_bytes)
        self.shelf = Shelf(folder, self._describe)
        self.models = Models(runs)
        self.runs = Runs(runs)
        self.assets = read_assets()

    def _made(self, _: Job, answer: Answer) -> None:
        if "recipe" in answer.head:
            self.tunes.add(Made.of(answer))

    async def _describe(self, files: list[bytes]) -> list[dict[str, Any] | None]:
        answer = await self.crew.ask(OWN, b"".join(files), do="describe", sizes=[*map(len, files)])
        found: list[dict[str, Any] | None] = answer.head["files"]
        return found

    async def tune(self, id_: str, client: str) -> Made:
        """Return a tune that is at hand, or on the shelf. Raises Refused."""
        made = self.tunes.find(id_)
        if made is not None:
            return made
        data = await self.shelf.read(id_)
        if data is None:
            raise Refused(404, GONE)
        answer = await self.crew.ask(client, data, do="recall")
        return Made.of(answer)

    def explain(self, words: str) -> str:
        """Return an error as one line of bounded length, which names no folder of this machine."""
        return printable(hide_folders(words[: 4 * MOST_WORDS], self.folders))[:MOST_WORDS]

    async def shown(self, made: Made) -> Response:
        """Return everything that a page shows of a tune."""
        is_kept = await self.shelf.has(made.id)
        body = await asyncio.to_thread(made.body, kept=is_kept)
        return Response(body, media_type="application/json")


def create_app(
    folder: Path,
    *,
    runs: Path = RUNS,
    limits: Limits | None = None,
    hosts: Collection[str] = LOOPBACK,
    any_address: bool = False,
) -> FastAPI:
    """Make the server's app: tunes are kept in a folder, models and runs are found in another.

    hosts: the names by which it may be called, besides addresses in numbers where those may.
    """
    place = Playground(folder, runs, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        place.crew.start()
        yield
        await place.crew.stop()

    app = FastAPI(
        title="musicgen", version=version_of("musicgen"), docs_url=None, redoc_url=None,
        lifespan=lifespan, responses=FAULTS,
    )  # fmt: skip
    app.state.playground = place
    app.add_middleware(Gate, limits=place.limits, held=place.crew.held, hosts=hosts,
                       any_address=any_address)  # fmt: skip
    app.add_exception_handler(Exception, _unforeseen)
    for kind in (MusicgenError, HTTPException):
        app.add_exception_handler(kind, _refused)
    _add_jobs(app, place)
    _add_tunes(app, place)
    _add_shelf(app, place)
    _add_training(app, place)
    _add_pages(app, place)
    _describe_requests(app)
    return app


def _describe_requests(app: FastAPI) -> None:
    """Complete /openapi.json: the body that we parse ourselves; a bad request is a 400, not 422."""
    described = app.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = described["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, found = msgspec.json.schema_components([Ask], ref_template="#/components/schemas/{name}")
    schemas |= found


def client_of(request: Request, token: str) -> str:
    """Tell clients apart: by their address, and the token that a page chose for itself."""
    host = request.client.host if request.client else ""
    return f"{host} {token[:64]}"


ASK_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}},
    }
}
Token = Annotated[str, Header(alias="X-Client", description="whose turn it is: any word")]


def _add_jobs(app: FastAPI, place: Playground) -> None:
    crew = place.crew

    @app.get("/api/models", response_model=list[ModelAbout])
    async def models() -> Any:
        """List the models that can be asked for tunes."""
        return await asyncio.to_thread(place.models.told)

    @app.post("/api/jobs", status_code=202, response_model=JobId, openapi_extra=ASK_BODY)
    async def submit(request: Request, token: Token = "") -> Any:
        """Ask for a tune, or a near variant of one."""
        client = client_of(request, token)
        ask = await asyncio.to_thread(read_ask, await request.body())
        if ask.do == "sample":
            return {"id": crew.submit(await asyncio.to_thread(sample_job, ask, client)).id}
        if ask.of is None:
            raise Refused(400, "of: name the tune that is to be varied")
        made = await place.tune(ask.of, client)
        job = await asyncio.to_thread(tweak_job, ask, client, made.recipe)
        return {"id": crew.submit(job).id}

    @app.get("/api/jobs/{id}", response_model=JobState)
    async def job(id: str) -> Any:  # noqa: A002 - the name in the path
        """Say how a job stands."""
        return _state(place, crew.find(id))

    @app.get("/api/jobs/{id}/events", response_model=None)
    async def events(id: str) -> Response:  # noqa: A002 - the name in the path
        """Follow a job until it ends, as server-sent events of the same JSON."""
        found = crew.find(id)
        return StreamingResponse(
            _events(place, found), media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    @app.delete("/api/jobs/{id}", response_model=JobState)
    async def cancel(id: str) -> Any:  # noqa: A002 - the name in the path
        """Want a job no longer."""
        crew.cancel(crew.find(id))
        return _state(place, crew.find(id))


def _state(place: Playground, job: Job) -> dict[str, Any]:
    return {
        "state": job.state, "ahead": place.crew.turns.ahead(job), "bars": job.bars, "of": job.of,
        "tune": job.tune, "error": place.explain(str(job.fault)) if job.fault else None,
    }  # fmt: skip


async def _events(place: Playground, job: Job) -> AsyncIterator[str]:
    """Yield what there is to say of a job whenever that changes, or it was quiet for a while."""
    said = ""
    while True:
        is_over = job.is_over
        told = json.dumps(_state(place, job))
        yield f"data: {told}\n\n" if told != said else ": still here\n\n"
        said = told
        if is_over:
            return
        await job.next(HEARTBEAT if job.state == "working" else 1.0)


def _add_tunes(app: FastAPI, place: Playground) -> None:
    @app.get("/api/tunes/{id}", response_model=TuneShown)
    async def tune(id: str, request: Request, token: Token = "") -> Any:  # noqa: A002
        """Return everything that a page shows of a tune."""
        return await place.shown(await place.tune(id, client_of(request, token)))

    @app.get("/api/tunes/{id}/file/{suffix}", response_class=Response)
    async def file(id: str, suffix: str, request: Request, token: Token = "") -> Response:  # noqa: A002
        """Download a tune: mid, abc, musicxml, wav, svg, png or html."""
        if suffix not in KINDS:
            raise Refused(404, f"a tune has no file of that kind; there are {', '.join(KINDS)}")
        client = client_of(request, token)
        made = await place.tune(id, client)
        answer = await place.crew.ask(client, do="file", recipe=made.recipe, suffix=suffix)
        name = f"{answer.head.get('name') or made.id}.{suffix}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(answer.body, media_type=KINDS[suffix], headers=headers)

    @app.get("/api/tunes/{a}/differences/{b}", response_model=Differences)
    async def compare(a: str, b: str, request: Request, token: Token = "") -> Any:
        """Say where two tunes differ."""
        client = client_of(request, token)
        one, other = await place.tune(a, client), await place.tune(b, client)
        answer = await place.crew.ask(
            client, do="differences", recipe_a=one.recipe, recipe_b=other.recipe
        )
        return answer.head


def _add_shelf(app: FastAPI, place: Playground) -> None:
    def listed() -> list[dict[str, Any]]:
        """List what is known already: what was done stays done, whoever can look again or not."""
        return [entry.to_json() for entry in place.shelf.listed()]

    @app.get("/api/shelf", response_model=list[Kept])
    async def shelf() -> Any:
        """List the tunes that are kept, the latest first."""
        return [entry.to_json() for entry in await place.shelf.entries()]

    @app.put("/api/shelf/{id}", response_model=list[Kept])
    async def keep(id: str, request: Request, token: Token = "") -> Any:  # noqa: A002
        """Keep a tune, as a MIDI file with its recipe; return the shelf."""
        client = client_of(request, token)
        made = await place.tune(id, client)
        answer = await place.crew.ask(client, do="file", recipe=made.recipe, suffix="mid")
        await place.shelf.keep(made.id, answer.body)
        return listed()

    @app.delete("/api/shelf/{id}", response_model=list[Kept])
    async def drop(id: str) -> Any:  # noqa: A002
        """Take a tune off the shelf: its file is removed; return the shelf."""
        await place.shelf.remove(id)
        return listed()


def _add_training(app: FastAPI, place: Playground) -> None:
    @app.get("/api/training", response_model=list[Training])
    async def training() -> Any:
        """List the runs in ./checkpoints with their curves, the newest first."""
        return await asyncio.to_thread(place.runs.told)

    @app.get("/api/training/{run}/tune", response_model=TuneShown)
    async def heard(run: str, request: Request, token: Token = "") -> Any:
        """Return a tune of a run's best model so far."""
        answer = await place.crew.ask(client_of(request, token), do="heard", run=run[:200])
        return await place.shown(Made.of(answer))


def _add_pages(app: FastAPI, place: Playground) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _asset(place.assets.get(PAGE), request)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return _asset(place.assets.get(name), request)


def _asset(asset: Asset | None, request: Request) -> Response:
    if asset is None:
        raise Refused(404, "there is nothing of that name")
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.kind, headers=headers)


# Faults


async def _refused(request: Request, fault: Exception) -> Response:
    """Answer with why not, in one line."""
    status, words = 400, str(fault)
    if isinstance(fault, Refused):
        status = fault.status
    elif isinstance(fault, HTTPException):
        status, words = fault.status_code, str(fault.detail)
    place: Playground = request.app.state.playground
    return JSONResponse({"error": place.explain(words)}, status)


async def _unforeseen(_: Request, fault: Exception) -> Response:
    """Tell that it is our fault; what it was stands on the terminal."""
    return JSONResponse({"error": f"the server failed at it ({type(fault).__name__})"}, 500)
