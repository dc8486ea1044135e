"""What every HTTP service of Koinon does alike: bounded bodies, typed refusals, TLS, a clean stop.

Bodies are canonical bytes (`koinon.encoding`). A refusal is a 4xx response (503 for Unavailable) whose body is a
`Refusal`; the client raises it again as the same class of error.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware

from koinon.config import PartyConfig
from koinon.encoding import decode, encode
from koinon.errors import (
    AuthenticationError,
    ConfigError,
    KoinonError,
    Malformed,
    Missing,
    Oversized,
    PrivacyError,
    Rejected,
    RemoteError,
    Unavailable,
)
from koinon.observe import TLS_EXPIRES, metrics, refused
from koinon.wire import Refusal

CONTENT_TYPE = "application/vnd.koinon+msgpack"
EPOCH_HEADER = "Koinon-Epoch"
"""In each answer of a replica: the committee's epoch that it knows. Not signed: a reason to ask for proof."""
BODY_BYTES_MAX = 256 * 1024 * 1024
BODY_SECONDS = 30.0
IDLE_SECONDS = 75.0
"""A connection that has not brought a whole request line and headers for so long is closed."""
TLS_WARN_DAYS = 30

log = logging.getLogger("koinon.service")
Problems = Callable[[], Awaitable[list[str]]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _status(error: KoinonError) -> int:
    match error:
        case Oversized():
            return 413
        case AuthenticationError():
            return 403
        case Missing():
            return 404
        case Unavailable():
            return 503
        case Malformed():
            return 400
    return 409


def refusal(service: str, error: KoinonError, path: str) -> tuple[int, bytes]:
    """Count and log a refusal; its status and body."""
    refused(service, error)
    log.info("refused", extra={"code": error.code, "reason": error.message, "path": path})
    code = f"{error.code}:{error.rule}" if isinstance(error, Rejected) else error.code
    return _status(error), encode(Refusal(code=code, message=error.message[:1024], hint=(error.hint or "")[:1024]))


def refusals(service: str) -> Middleware:
    """Middleware: a KoinonError becomes a counted refusal, anything else a logged 500; the service goes on."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except KoinonError as error:
            status, said = refusal(service, error, request.path)
            return web.Response(status=status, body=said, content_type=CONTENT_TYPE)
        except web.HTTPRequestEntityTooLarge:
            error_ = Oversized("the body is larger than this service accepts")
            refused(service, error_)
            body = Refusal(code=error_.code, message=error_.message)
            return web.Response(status=413, body=encode(body), content_type=CONTENT_TYPE)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("handler failed", extra={"path": request.path})
            return web.Response(status=500)

    return middleware


def application(
    service: str, *, body_bytes_max: int = BODY_BYTES_MAX, healthy: Problems | None = None
) -> web.Application:
    """An aiohttp application with the middleware, `/metrics` and `/healthz` (503 with what `healthy` finds wrong)."""
    app = web.Application(middlewares=[refusals(service)], client_max_size=body_bytes_max)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), content_type="text/plain")

    async def health(_: web.Request) -> web.Response:
        problems = await healthy() if healthy is not None else []
        return web.json_response({"ok": not problems, "problems": problems}, status=503 if problems else 200)

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", health)
    return app


def answer(message: object) -> web.Response:
    """A 200 with canonical bytes (a message) or raw bytes."""
    body = bytes(message) if isinstance(message, bytes | bytearray) else encode(message)
    return web.Response(body=body, content_type=CONTENT_TYPE)


async def read_body(request: web.Request, *, bytes_max: int, seconds: float = BODY_SECONDS) -> bytes:
    """The body; Oversized before it is read when the announced length is above `bytes_max`.

    Unavailable when it takes longer than `seconds`: who sends slowly must not hold what others wait for.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _read(request.content_length, request.content, bytes_max)
    except TimeoutError:
        raise Unavailable("the body came too slowly") from None


async def read_answer(response: aiohttp.ClientResponse, *, bytes_max: int) -> bytes:
    """The body of an answer; Oversized as `read_body`: nobody's answer may fill this party's memory."""
    return await _read(response.content_length, response.content, bytes_max)


async def _read(announced: int | None, content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    """No more than `bytes_max` bytes and a chunk are ever held, whatever was announced (or packed)."""
    if (announced or 0) > bytes_max:
        raise Oversized(f"a body of {announced} bytes where at most {bytes_max} are allowed")
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise Oversized(f"a body of more than {bytes_max} bytes")
    return bytes(body)


def server_tls(home: Path, config: PartyConfig) -> ssl.SSLContext | None:
    """The TLS context of a listener, or None when the party has no certificate."""
    if not config.tls.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    path = home / config.tls.certificate
    hint = (
        "koinon-committee request makes a key and asks for a certificate, which the registrar makes (docs/operating.md)"
    )
    try:
        context.load_cert_chain(path, home / config.tls.key)
        _tell_expiry(path)
    except FileNotFoundError:
        absent = path if not path.exists() else home / config.tls.key
        raise ConfigError(f"config.toml asks for TLS, and {absent} is not there", hint=hint) from None
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{path} and its key cannot be loaded: {error}", hint=hint) from None
    return context


def _tell_expiry(path: Path) -> None:
    """Once it has run out nobody talks to this party any more: say so in time."""
    from cryptography import x509  # on demand: only where there is TLS

    expires = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    TLS_EXPIRES.set(expires)
    days = (expires - time.time()) / 86_400
    if days < TLS_WARN_DAYS:
        hint = "renew it: docs/operating.md, A certificate runs out"
        log.warning("the TLS certificate runs out", extra={"days": round(days, 1), "hint": hint})


def client_tls(ca_pem: str) -> ssl.SSLContext | None:
    """The context with which a party trusts the federation's own authority, or None without TLS."""
    if not ca_pem:
        return None
    context = ssl.create_default_context(cadata=ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def distrusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Why the other end's certificate is not good enough, and what its operator does about it."""
    why = getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__
    return f"its TLS certificate is refused ({why}): its operator needs one, koinon-committee request"


async def listen(app: web.Application, home: Path, config: PartyConfig) -> tuple[web.AppRunner, tuple[str, int]]:
    """Start serving; returns the runner (call `cleanup`) and the bound address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, keepalive_timeout=IDLE_SECONDS)
    await runner.setup()
    site = web.TCPSite(runner, config.listen.host, config.listen.port, ssl_context=server_tls(home, config))
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"cannot listen on {config.listen.host}:{config.listen.port}: {error}",
            hint="[listen] in config.toml: another port, or end what listens there",
        ) from None
    host, port = runner.addresses[0][:2]
    return runner, (host, port)


def raise_refusal(status: int, body: bytes, where: str) -> None:
    """Raise what a service refused with, as the class of error that the code names.

    Only what a service may say of others' input: our own errors (ConfigError, InvariantBroken, ...) stop processes, and
    nobody else makes them.
    """
    try:
        refusal = decode(Refusal, body, bytes_max=8192)
    except Malformed:
        raise Unavailable(f"{where} answered with status {status}") from None
    code, _, rule = refusal.code.partition(":")
    if code == Rejected.code:
        raise Rejected(rule, f"{where}: {refusal.message}", hint=refusal.hint or None)
    kind = _by_code().get(code, RemoteError)
    raise kind(f"{where}: {refusal.message}", hint=refusal.hint or None)


def _by_code() -> dict[str, type[KoinonError]]:
    found: dict[str, type[KoinonError]] = {}
    queue: list[type[KoinonError]] = [RemoteError, PrivacyError]
    while queue:
        kind = queue.pop()
        queue.extend(kind.__subclasses__())
        if kind.__init__ is KoinonError.__init__:
            found[kind.code] = kind
    return found
