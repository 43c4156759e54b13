"""The editor's server as an ASGI application: its routes, and the queue before the runner."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from lostgan_serve.editor.answers import PAGE, Answer, Editor, Query, in_json, page_files
from lostgan_serve.editor.guard import API, EditorLimits, Guard, Site
from lostgan_serve.errors import LayoutError, LostganError
from lostgan_serve.progress import Progress
from lostgan_serve.web.asgi import App, Receive, disconnected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Work = Callable[[bytes, Query], Answer]
Endpoint = Callable[["Request"], Awaitable["Response"]]

_GONE = Answer(b"", status=499)  # which nobody receives


class Queue:
    """Answers requests in threads: as many at a time as the runner is worth, and `waiting` wait. One whose client goes
    away while it waits is not worked on."""

    def __init__(self, concurrency: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency, "answer")
        self._most = concurrency + waiting
        self._jobs: set[Future[Answer]] = set()

    async def answer(self, work: Callable[[], Answer], receive: Receive) -> Answer:
        """The answer of `work`. receive: of the request, whose body has been read."""
        self._jobs = {job for job in self._jobs if not job.done()}
        if len(self._jobs) >= self._most:
            return refusal(503, f"{self._most} requests are being answered; try again")
        job = self._pool.submit(work)
        self._jobs.add(job)
        answered, gone = asyncio.wrap_future(job), asyncio.ensure_future(disconnected(receive))
        either: set[asyncio.Future[Any]] = {answered, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answered.done():
            return answered.result()
        answered.cancel()
        return _GONE

    def close(self) -> None:
        """Drop what waits; what is being answered is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def application(editor: Editor, queue: Queue, site: Site, token: str, limits: EditorLimits, progress: Progress) -> App:
    """The server behind its guard. progress: is told of faults of its own."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import Response
    from starlette.routing import Route

    def sent(answer: Answer) -> Response:
        return Response(answer.body, answer.status, answer.headers, answer.media_type)

    def fixed(answer: Answer) -> Endpoint:
        async def endpoint(_: Request) -> Response:
            return sent(answer)

        return endpoint

    def computed(work: Work) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            job = partial(_answered, work, await request.body(), request.query_params)
            return sent(await queue.answer(job, request.receive))

        return endpoint

    async def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return sent(refusal(error.status_code, error.detail))
        place = traceback.extract_tb(error.__traceback__)[-1]  # its text may hold a part of the request
        progress.note(
            f"error: {type(error).__name__} at {place.filename}:{place.lineno}; this is a fault of the editor"
        )
        return sent(refusal(500, "the editor's server failed at this; its terminal says where"))

    files = page_files()
    answers = {"model": editor.model(), "schema": editor.schema()}
    works = {"generate": editor.generate, "open": editor.open, "coco": editor.coco, "masks": editor.masks}
    routes = [Route(f"/page/{name}", fixed(answer)) for name, answer in files.items()]
    routes += [Route("/", fixed(files[PAGE]))] if PAGE in files else []
    routes += [Route(API + name, fixed(answer)) for name, answer in answers.items()]
    routes += [Route(API + name, computed(work), methods=["POST"]) for name, work in works.items()]
    handlers = {HTTPException: failed, Exception: failed}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    starlette.router.redirect_slashes = False
    return Guard(starlette, site, token, limits)


def refusal(status: int, line: str) -> Answer:
    """An answer that says what is wrong."""
    return Answer(in_json({"error": line}).body, status=status)


def _answered(work: Work, body: bytes, query: Query) -> Answer:
    """An answer, also where there is an error: of the layout, or of the runner."""
    try:
        return work(body, query)
    except LayoutError as error:
        return refusal(400, str(error))
    except LostganError as error:
        return refusal(502, str(error))
