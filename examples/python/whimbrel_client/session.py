"""One connection, from hello to CLOSE (docs/protocol.md, sections 3 to 7).

A `Session` sends and answers; what pushes mean and what comes after its end is its owner's (`client`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import messages as m
from .descriptor import Descriptor
from .errors import LEAVING, Code, Ended, LoginRefused, Refused, Rejected, Retry
from .frames import VALUE_MAX, Decoder, Flag, Frame, FrameError, Kind
from .secure import (
    ANSWER_BODY_LEN_MAX,
    PLAINTEXT_FROM_CLIENT_MAX,
    SUITES,
    VERSION,
    Accept,
    Direction,
    Handshake,
    SecureError,
    StaleKey,
    parse_answer,
)

log = logging.getLogger(__name__)

CONNECT_WITHIN_S = 10
READY_WITHIN_S = 20
PONG_WITHIN_S = 10
RECORD_WITHIN_S = 20
HEARTBEAT_MS_DEFAULT = 240_000
REQUEST_DEADLINE_MS = 10_000
# The deadline is the server's, counted from the request's arrival; the answer still has to come back.
RESPONSE_SLACK_S = 5
# Acknowledgements are due at most 100 ms after the push; half of that leaves time for the way.
ACK_AFTER_S = 0.05


class StaleDescriptor(Exception):
    """The gateway has another key by now; `descriptor` is what it says of itself, not verified yet."""

    def __init__(self, descriptor: bytes) -> None:
        super().__init__("the gateway's key is another by now")
        self.descriptor = descriptor


@dataclass
class Handlers:
    """What a session tells its owner. Each is called in the order of arrival and must not block."""

    push: Callable[[int, bytes], None]
    sync_hint: Callable[[int], None] = field(default=lambda _spread_ms: None)
    goaway: Callable[[int, bool], object] = field(default=lambda _window_ms, _refresh: None)
    token: Callable[[], str] | None = None


class Session:
    """A login session. Made by `open`; live once `ready` returned."""

    def __init__(
        self,
        descriptor: Descriptor,
        answer: Any,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        outgoing: Direction,
        incoming: Direction,
        handlers: Handlers,
    ) -> None:
        self.descriptor = descriptor
        self.answer = answer
        # None until a GOAWAY; then the last request id that is still answered here.
        self._last_request_id: int | None = None
        self._reader, self._writer = reader, writer
        self._outgoing, self._incoming = outgoing, incoming
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._next_request_id, self._gateway_request_id = 1, 0
        self._unanswered: dict[int, asyncio.Future[Any]] = {}
        self._slots = asyncio.Semaphore(max(1, answer.requests_max))
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._pong: asyncio.Future[None] | None = None
        self._tracked = self._acknowledged = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._last_sent = self._loop.time()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._keep_alive())]
        self._write(Frame(Kind.CONFIRM))

    @classmethod
    async def open(cls, descriptor: Descriptor, login: Any, handlers: Handlers, suite: int | None = None) -> "Session":
        """Logs in at one gateway. `suite` None takes the gateway's first that is known here."""
        suites = [known for known in descriptor.suites if known in SUITES and suite in (None, known)]
        if VERSION not in descriptor.versions or not suites or not descriptor.keys:
            raise Ended(f"{descriptor.node} speaks nothing that is known here", Retry.NEW_DIRECTORY)
        key = descriptor.keys[0]
        for host, port in descriptor.tcp_addresses():
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    reader, writer = await asyncio.open_connection(host, port)
                    break
            except OSError as error:
                log.info("%s:%s cannot be reached: %s", host, port, error)
        else:
            raise Ended(f"no address of {descriptor.node} can be reached")
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                handshake = Handshake(suites[0], key.id, key.public, login.SerializeToString())
                writer.write(handshake.hello)
                head = await reader.readexactly(3)
                body_len = int.from_bytes(head[1:], "big")
                if body_len > ANSWER_BODY_LEN_MAX:
                    raise SecureError(f"an answer of {body_len} bytes")
                answer = parse_answer(head[0], await reader.readexactly(body_len))
            if isinstance(answer, StaleKey):
                raise StaleDescriptor(answer.descriptor)
            if not isinstance(answer, Accept):
                raise Rejected(answer.reason, answer.retry_after_ms)
            established = handshake.finish(answer.message_2)
            login_answer = m.LoginAnswer.FromString(established.login_answer)
            if login_answer.code != 0:
                raise LoginRefused("login", login_answer.code, login_answer.message, login_answer.retry_after_ms)
        except (OSError, EOFError, SecureError, ValueError, m.DecodeError) as error:
            writer.close()
            raise Ended(f"no login at {descriptor.node}: {error}") from error
        except BaseException:
            writer.close()
            raise
        return cls(descriptor, login_answer, reader, writer, established.outgoing, established.incoming, handlers)

    async def ready(self) -> None:
        """Waits until the gateway has registered the session."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise self._end(Ended("no READY came")) from None

    def takes_requests(self) -> bool:
        """Whether a request sent now would be answered here."""
        if self.ended.done() or self._next_request_id > VALUE_MAX:
            return False
        return self._last_request_id is None or self._next_request_id <= self._last_request_id

    async def request(self, method: int, request: Any, response_class: Any) -> Any:
        """Sends a request and waits for its response. Raises Refused, or Ended when the outcome is unknown."""
        async with self._slots:
            if self.ended.done():
                raise self.ended.result()
            if not self.takes_requests():
                raise Ended("the gateway leaves")
            request_id, self._next_request_id = self._next_request_id, self._next_request_id + 2
            response_future: asyncio.Future[Any] = self._loop.create_future()
            self._unanswered[request_id] = response_future
            self._write(
                Frame(
                    Kind.REQUEST,
                    (method, request_id),
                    request.SerializeToString(),
                    deadline_ms=REQUEST_DEADLINE_MS,
                )
            )
            try:
                async with asyncio.timeout(REQUEST_DEADLINE_MS / 1000 + RESPONSE_SLACK_S):
                    response = await response_future
            except TimeoutError:
                raise self._end(Ended(f"no response to method {method}")) from None
            finally:
                self._unanswered.pop(request_id, None)
        if response.code != 0:
            raise Refused(f"method {method}", response.code, response.message, response.retry_after_ms)
        return response_class.FromString(response.body)

    def ping(self) -> None:
        """Finds out now whether the connection is alive, as after a change of network."""
        if self._pong is None:
            self._pong = self._loop.create_future()
            self._write(Frame(Kind.PING, (1,)))
            self._loop.call_later(PONG_WITHIN_S, self._pong_is_due, self._pong)

    async def close(self) -> None:
        """Says good-bye and waits until everything is written."""
        if not self.ended.done():
            self._write(Frame(Kind.CLOSE, (LEAVING, Retry.NEVER, 0)))
            self._end(Ended("closed by this side", Retry.NEVER))
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _write(self, *frames: Frame) -> None:
        if self.ended.done():
            return
        if self._acknowledged < self._tracked:
            self._acknowledged = self._tracked
            frames = (Frame(Kind.PUSH_ACK, (self._tracked,)), *frames)
        plaintext = b"".join(frame.encode() for frame in frames)
        for at in range(0, len(plaintext), PLAINTEXT_FROM_CLIENT_MAX):
            self._writer.write(self._outgoing.seal(plaintext[at : at + PLAINTEXT_FROM_CLIENT_MAX]))
        self._last_sent = self._loop.time()

    async def _receive(self) -> None:
        decoder = Decoder()
        try:
            while True:
                first = await self._reader.readexactly(1)
                async with asyncio.timeout(RECORD_WITHIN_S):
                    length = int.from_bytes(first + await self._reader.readexactly(1), "big")
                    ciphertext = await self._reader.readexactly(length)
                for frame in decoder.feed(self._incoming.open(ciphertext)):
                    if (ended := self._handle(frame)) is not None:
                        self._end(ended)
                        return
        except (FrameError, SecureError, m.DecodeError) as error:
            self._end(Ended(f"the gateway broke a rule: {error}"))
        except (OSError, EOFError) as error:
            self._end(Ended(f"the connection broke: {error}"))
        except Exception as error:
            # A handler's fault. It shall be seen, and not leave a session that nobody reads.
            self._end(Ended(f"a push could not be handled: {error!r}"))
            raise

    def _handle(self, frame: Frame) -> Ended | None:
        match frame.kind:
            case Kind.READY if not self._ready.done():
                self._ready.set_result(None)
            case Kind.RESPONSE:
                response = m.Response.FromString(frame.payload)
                # One whose asker has given up is passed over.
                waiting = self._unanswered.get(frame.numbers[0])
                if waiting is not None and not waiting.done():
                    waiting.set_result(response)
            case Kind.PUSH:
                self._handlers.push(frame.numbers[0], frame.payload)
                if frame.flags & Flag.TRACKED:
                    self._tracked += 1
                    self._ack_soon()
            case Kind.REQUEST:
                request_id = frame.numbers[1]
                if request_id % 2 or request_id <= self._gateway_request_id:
                    return Ended(f"the gateway broke a rule: request id {request_id} after {self._gateway_request_id}")
                self._gateway_request_id = request_id
                unknown = m.Response(code=Code.UNKNOWN_METHOD, message="clients serve no methods")
                self._write(Frame(Kind.RESPONSE, (request_id,), unknown.SerializeToString()))
            case Kind.PING:
                self._write(Frame(Kind.PONG, frame.numbers))
            case Kind.PONG if self._pong is not None:
                self._pong.set_result(None)
                self._pong = None
            case Kind.SYNC_HINT:
                self._handlers.sync_hint(frame.numbers[0])
            case Kind.REAUTH if self._handlers.token is not None:
                self._write(Frame(Kind.REAUTH, (0,), self._handlers.token().encode()))
            case Kind.GOAWAY:
                last_request_id, window_ms, refresh = frame.numbers
                self._leave(last_request_id)
                self._handlers.goaway(window_ms, refresh == 1)
            case Kind.CLOSE:
                reason, retry, retry_after_ms = frame.numbers
                return Ended(f"the gateway closed with reason {reason}", retry, retry_after_ms)
        return None

    def _leave(self, last_request_id: int) -> None:
        """Requests the gateway did not begin are given back, to be sent elsewhere."""
        self._last_request_id = last_request_id
        for request_id, waiting in self._unanswered.items():
            if request_id > last_request_id and not waiting.done():
                waiting.set_exception(Ended("the gateway leaves and did not begin this"))

    def _ack_soon(self) -> None:
        if self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_AFTER_S, self._ack)

    def _ack(self) -> None:
        self._ack_timer = None
        # Something else that went out may have taken it along.
        if self._acknowledged < self._tracked:
            self._write()

    async def _keep_alive(self) -> None:
        heartbeat_s = (self.answer.heartbeat_ms or HEARTBEAT_MS_DEFAULT) / 1000
        while True:
            due = self._last_sent + heartbeat_s - self._loop.time()
            if due > 0:
                await asyncio.sleep(due)
            else:
                self.ping()
                await asyncio.sleep(heartbeat_s)

    def _pong_is_due(self, pong: asyncio.Future[None]) -> None:
        if not pong.done():
            self._end(Ended("no PONG came"))

    def _end(self, ended: Ended) -> Ended:
        """Ends everything once; whoever waits learns why."""
        if self.ended.done():
            return self.ended.result()
        self.ended.set_result(ended)
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        for waiting in [*self._unanswered.values(), self._ready]:
            if not waiting.done():
                waiting.set_exception(ended)
        # Nobody may be waiting for READY.
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()
        self._writer.close()
        return ended
