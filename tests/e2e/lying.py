"""Replicas as one node sees them when all lie to it: proxies that pass everything on and change some answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import aiohttp
from aiohttp import web

Lie = Callable[[str, bytes], bytes]
"""(path, the true answer) -> what is told instead."""


class LyingProxies:
    """One proxy in front of each url, on a thread of its own; `urls` in the same order. Use as a context manager."""

    def __init__(self, urls: Sequence[str], lie: Lie) -> None:
        self._targets, self._lie = list(urls), lie
        self.urls: list[str] = []
        self.told = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> LyingProxies:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession()
        self._runners = []
        for target in self._targets:
            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{path:.*}", self._handler(target))
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._runners.append(runner)
            self.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self._session.close()

    def _handler(self, target: str) -> Callable[[web.Request], object]:
        async def handle(request: web.Request) -> web.Response:
            kept = {"Content-Type", "Koinon-Upload"}
            headers = {name: value for name, value in request.headers.items() if name in kept}
            url = target + request.path_qs
            async with self._session.request(request.method, url, data=await request.read(), headers=headers) as answer:
                body, epoch = await answer.read(), answer.headers.get("Koinon-Epoch", "")
                if answer.status == 200 and (lie := self._lie(request.path, body)) != body:
                    body, self.told = lie, self.told + 1
                return web.Response(status=answer.status, body=body, headers={"Koinon-Epoch": epoch})

        return handle
