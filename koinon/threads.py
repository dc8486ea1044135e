"""Blocking calls beside an event loop.

`asyncio.to_thread` is awaited when a program ends; these daemon threads are not, so that a stop never hangs on a
chain that doesn't answer or on a user's training code.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any, timeout_seconds: float | None = None) -> T:
    """The result of `call(*arguments)`, made in a daemon thread; TimeoutError when it takes too long.

    A thread cannot be stopped: one that overran goes on and its result is thrown away.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = call(*arguments)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, daemon=True, name="koinon-worker").start()
    # not wait_for: before Python 3.12 it can swallow a cancellation that meets a wake-up
    async with asyncio.timeout(timeout_seconds):
        return await future
