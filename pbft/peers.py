"""Links between replicas: one WebSocket a pair, both ends proved, everything bounded, dialled again for ever.

The replica of the lower index dials. Both ends first send a `Greeting` (who I am, a fresh nonce), then a signed
`Hello` that names both ends and both nonces: it can be neither replayed nor reflected. After that each binary frame
is a bundle of messages for the core (`koinon.bundle`). Messages may be lost (a full queue drops the oldest); the
protocol asks again. Confidentiality and integrity on the wire are TLS's; what counts toward a quorum is signed besides.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
from aiohttp import WSMsgType, web

from koinon.bundle import BUNDLE_OVERHEAD_BYTES, Outbox, unbundle
from koinon.config import FederationFile
from koinon.encoding import U8, U32, Digest, Message, decode, encode
from koinon.errors import InvariantBroken, Malformed, Oversized, RemoteError, Unavailable, UnknownSigner, WrongEpoch
from koinon.observe import refused
from koinon.service import client_tls, distrusted
from koinon.signing import Signer, authenticate, seal

from .conduct import Conduct
from .messages import MESSAGE_BYTES_MAX
from .reports import Seldom
from .waiting import client_of

HANDSHAKE_BYTES_MAX = 512
HANDSHAKE_TIMEOUT_SECONDS = 5.0
HANDSHAKES_MAX = 64
HANDSHAKES_PER_ADDRESS_MAX = 16
"""A stranger must not hold all places."""
HEARTBEAT_SECONDS = 5.0
REDIAL_SECONDS = 0.1
REDIAL_SECONDS_MAX = 0.5
"""A replica that comes back waits this long for those of a lower index: a refused connection costs next to nothing."""
FLUSH_POLL_SECONDS = 0.01
PEER_QUEUE_MESSAGES_MAX = 4096
PEER_QUEUE_BYTES_MAX = 64 << 20
FRAME_BYTES_MAX = MESSAGE_BYTES_MAX + BUNDLE_OVERHEAD_BYTES

log = logging.getLogger("koinon.pbft.peers")
Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse
Receive = Callable[[int, bytes], Awaitable[None]]


class Greeting(Message, frozen=True):
    """The first frame of each end. Replicas of different epochs part here."""

    epoch: U32
    replica: U8
    nonce: Digest


class Hello(Message, frozen=True):
    """The second, signed: `sender` speaks to `receiver` in `epoch`, on the connection of these two nonces."""

    epoch: U32
    sender: U8
    receiver: U8
    sender_nonce: Digest
    receiver_nonce: Digest


class _Link:
    """An authenticated connection to one peer."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.outbox = Outbox(messages_max=PEER_QUEUE_MESSAGES_MAX, bytes_max=PEER_QUEUE_BYTES_MAX)


class Peers:
    """All links of one replica. `receive(peer, data)` is awaited for each message, which slows a fast peer down;
    `overtaken()` is called when a peer greets from a later epoch (which it may only pretend)."""

    def __init__(
        self,
        federation: FederationFile,
        index: int,
        signer: Signer,
        receive: Receive,
        overtaken: Callable[[], None] = lambda: None,
    ) -> None:
        self._federation = federation
        self._addresses = federation.replica_addresses
        self._domain = federation.domain
        self._epoch = federation.epoch
        self._index = index
        self._signer = signer
        self._receive = receive
        self._overtaken = overtaken
        self._tls = client_tls(federation.tls_ca)
        self.conduct = Conduct(time.monotonic)
        self._seldom = Seldom()
        self._links: dict[int, _Link] = {}
        self._dialling: list[asyncio.Task[None]] = []
        self._handshakes: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None

    @property
    def connected(self) -> tuple[int, ...]:
        """The peers with a live link, ascending."""
        return tuple(sorted(self._links))

    def dropped(self) -> int:
        """Messages that full queues of the current links gave up."""
        return sum(link.outbox.dropped for link in self._links.values())

    async def start(self) -> None:
        """Dial every peer of a higher index, now and whenever the link breaks."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or False, limit=0))
        higher = range(self._index + 1, len(self._addresses))
        self._dialling = [asyncio.create_task(self._keep_link(peer), name=f"dial {peer}") for peer in higher]

    async def stop(self) -> None:
        for task in self._dialling:
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        for link in list(self._links.values()):
            await link.socket.close()
        if self._session is not None:
            await self._session.close()

    async def flush(self, seconds: float) -> None:
        """Wait until all that was queued is handed over, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while any(len(link.outbox) for link in self._links.values()):
                    await asyncio.sleep(FLUSH_POLL_SECONDS)
        except TimeoutError:
            pass

    def send(self, peers: Iterable[int], data: bytes) -> None:
        """Queue `data` for each of `peers` that is connected; for the others it is lost."""
        for peer in peers:
            if (link := self._links.get(peer)) is not None:
                link.outbox.put(data)

    def blame(self, peer: int) -> None:
        """The peer sent what no correct replica sends; too much of that ends the link for a while."""
        if self.conduct.blame(peer) and (link := self._links.pop(peer, None)) is not None:
            log.error("peer barred", extra={"peer": peer, "seconds": self.conduct.barred_seconds(peer)})
            link.outbox.close()

    # --- beginnings ------------------------------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/peer`: a peer of a lower index dials."""
        remote = client_of(request.remote)
        if self._handshakes.total() >= HANDSHAKES_MAX or self._handshakes[remote] >= HANDSHAKES_PER_ADDRESS_MAX:
            raise Unavailable("too many replicas greet at once")
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS, compress=False)
        self._handshakes[remote] += 1
        try:
            await socket.prepare(request)
            peer = await self._greet(socket, None)
        except (RemoteError, TimeoutError, ConnectionError) as error:
            self._refuse("a replica's greeting", error)
            if socket.prepared:
                await socket.close(code=aiohttp.WSCloseCode.POLICY_VIOLATION)
            return socket
        finally:
            self._handshakes[remote] -= 1
            self._handshakes += Counter()  # drops what is zero
        await self._serve(peer, socket)
        return socket

    async def _keep_link(self, peer: int) -> None:
        pause = REDIAL_SECONDS
        while True:
            await asyncio.sleep(self.conduct.barred_seconds(peer))
            try:
                if await self._dial(peer):
                    pause = REDIAL_SECONDS
            except aiohttp.ClientConnectorCertificateError as error:
                if times := self._seldom.times(("certificate", peer)):
                    log.warning("no link", extra={"peer": peer, "reason": distrusted(error), "times": times})
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.debug("no link", extra={"peer": peer, "reason": type(error).__name__})
            except RemoteError as error:
                self._refuse(f"the greeting of replica {peer}", error)
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, REDIAL_SECONDS_MAX)

    async def _dial(self, peer: int) -> bool:
        """One connection from beginning to end; True when it was authenticated."""
        if self._session is None:
            raise InvariantBroken("dialling before start")
        url = self._federation.replicas[peer].url + "/v1/peer"
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_SECONDS):
            socket = await self._session.ws_connect(
                url, max_msg_size=FRAME_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS, compress=0, timeout=timeout
            )
        try:
            await self._greet(socket, peer)
            await self._serve(peer, socket)
        finally:
            await socket.close()
        return True

    async def _greet(self, socket: Socket, expected: int | None) -> int:
        """The handshake; which peer it is. RemoteError when the other end is not that replica."""
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_SECONDS):
            mine = os.urandom(32)
            await socket.send_bytes(encode(Greeting(epoch=self._epoch, replica=self._index, nonce=mine)))
            theirs = decode(Greeting, await _frame(socket), bytes_max=HANDSHAKE_BYTES_MAX)
            peer = theirs.replica
            self._require_epoch(theirs)
            if (peer != expected) if expected is not None else (peer >= self._index):
                raise UnknownSigner(f"replica {peer} has no business on this link")
            self.conduct.require_good(peer)
            hello = Hello(
                epoch=self._epoch, sender=self._index, receiver=peer, sender_nonce=mine, receiver_nonce=theirs.nonce
            )
            await socket.send_bytes(seal(self._signer, self._domain, hello))
            said = authenticate(Hello, await _frame(socket), self._domain, bytes_max=HANDSHAKE_BYTES_MAX)
        wanted = Hello(
            epoch=self._epoch, sender=peer, receiver=self._index, sender_nonce=theirs.nonce, receiver_nonce=mine
        )
        if said.sender != self._addresses[peer] or said.message != wanted:
            raise UnknownSigner(f"somebody else answers for replica {peer}")
        return peer

    def _require_epoch(self, theirs: Greeting) -> None:
        """WrongEpoch for a peer of another epoch; a later one is a reason to ask for the proof of it."""
        if theirs.epoch > self._epoch:
            self._overtaken()
        if theirs.epoch != self._epoch:
            raise WrongEpoch(f"replica {theirs.replica} is in epoch {theirs.epoch}, this one in {self._epoch}")

    # --- the life of a link ----------------------------------------------------------------------------------

    async def _serve(self, peer: int, socket: Socket) -> None:
        """Carry messages both ways until the connection ends; a newer link of the same peer replaces this one."""
        link = _Link(socket)
        older, self._links[peer] = self._links.get(peer), link
        log.info("peer connected", extra={"peer": peer})
        if older is not None:
            await older.socket.close()
        writer = asyncio.create_task(self._write(link))
        try:
            await self._read(peer, socket)
        except RemoteError as error:
            self._refuse(f"a frame of replica {peer}", error)
            self.blame(peer)
        finally:
            writer.cancel()
            if self._links.get(peer) is link:
                del self._links[peer]
                log.info("peer disconnected", extra={"peer": peer})

    async def _read(self, peer: int, socket: Socket) -> None:
        while True:
            message = await socket.receive()
            if message.type == WSMsgType.BINARY:
                for data in unbundle(message.data, bytes_max=FRAME_BYTES_MAX):
                    self.conduct.require_good(peer)  # what it sent before it was barred is not listened to either
                    await self._receive(peer, data)
            elif message.type == WSMsgType.TEXT:
                raise Malformed("a text frame, where all frames are binary")
            elif message.type == WSMsgType.ERROR:
                if socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                    raise Oversized(f"a frame of more than {FRAME_BYTES_MAX} bytes")
                return
            else:
                return

    async def _write(self, link: _Link) -> None:
        try:
            while True:
                await link.socket.send_bytes(await link.outbox.take())
        except (ConnectionError, RuntimeError):  # closed meanwhile: the reader ends too
            await link.socket.close()

    def _refuse(self, what: str, error: BaseException) -> None:
        if isinstance(error, RemoteError):
            refused("pbft", error)
        reason = str(error) or type(error).__name__
        if times := self._seldom.times((what, reason)):
            log.warning("refused", extra={"what": what, "reason": reason, "times": times})


async def _frame(socket: Socket) -> bytes:
    message = await socket.receive()
    if message.type != WSMsgType.BINARY:
        raise Malformed("the connection ended during the handshake")
    data: bytes = message.data
    return data
