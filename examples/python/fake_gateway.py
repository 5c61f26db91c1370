"""A gateway for tests: real handshake and records, and frames as the test says. Nothing behind it."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from whimbrel_client import messages as m
from whimbrel_client.descriptor import CERTIFICATE_DOMAIN, DAY_MS, STATEMENT_DOMAIN
from whimbrel_client.frames import Decoder, Frame, Kind
from whimbrel_client.ids import ROOT_PREFIX, key_id, key_text
from whimbrel_client.secure import SUITES, Direction

SUITE = 2
LOGIN_ANSWER_LEN = 510


class Root:
    """The root all fake gateways are certified by."""

    def __init__(self) -> None:
        self.secret = Ed25519PrivateKey.generate()
        self.pin = key_text(ROOT_PREFIX, self.secret.public_key().public_bytes_raw())


class Connection:
    """One client, from its login on."""

    def __init__(self, gateway: "FakeGateway", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gateway = gateway
        self.login: Any = None
        self.received: list[Frame] = []
        self.is_over = asyncio.Event()
        self._reader, self._writer = reader, writer

    async def hello(self) -> bytes:
        head = await self._reader.readexactly(7)
        return head + await self._reader.readexactly(int.from_bytes(head[5:7], "big"))

    def answer(self, type_: int, body: bytes) -> None:
        self._writer.write(bytes([type_]) + len(body).to_bytes(2, "big") + body)

    async def serve(self) -> None:
        try:
            hello = await self.hello()
            if hello[8:12] != key_id(self.gateway.public_key()):
                self.answer(3, self.gateway.descriptor())
                return
            self._accept(hello)
            decoder = Decoder(from_gateway=False)
            while True:
                length = int.from_bytes(await self._reader.readexactly(2), "big")
                for frame in decoder.feed(self._incoming.open(await self._reader.readexactly(length))):
                    self.received.append(frame)
                    if frame.kind == Kind.CONFIRM:
                        self.gateway.connections.append(self)
                        self.send(Frame(Kind.READY))
                    elif frame.kind == Kind.REQUEST:
                        await self.gateway.on_request(self, frame)
                    elif frame.kind == Kind.PING:
                        self.send(Frame(Kind.PONG, frame.numbers))
        except (OSError, EOFError):
            pass
        finally:
            self.is_over.set()
            self._writer.close()

    def _accept(self, hello: bytes) -> None:
        noise = NoiseConnection.from_name(SUITES[SUITE][0])
        noise.set_as_responder()
        noise.set_prologue(hello[:12])
        noise.set_keypair_from_private_bytes(Keypair.STATIC, self.gateway.key.private_bytes_raw())
        noise.start_handshake()
        self.login = m.Login.FromString(bytes(noise.read_message(hello[12:])))
        answer = m.LoginAnswer(server_time_ms=_now_ms(), heartbeat_ms=self.gateway.heartbeat_ms, requests_max=8)
        raw = answer.SerializeToString()
        padded = len(raw).to_bytes(2, "big") + raw.ljust(LOGIN_ANSWER_LEN, b"\0")
        self.answer(1, bytes(noise.write_message(padded)))
        state = noise.noise_protocol
        self._incoming = Direction(SUITE, state.cipher_state_decrypt.k)
        self._outgoing = Direction(SUITE, state.cipher_state_encrypt.k)

    def send(self, *frames: Frame) -> None:
        """All in one record."""
        self._writer.write(self._outgoing.seal(b"".join(frame.encode() for frame in frames)))

    def respond(self, request: Frame, body: Any, code: int = 0) -> None:
        response = m.Response(code=code, body=body.SerializeToString())
        self.send(Frame(Kind.RESPONSE, (request.numbers[1],), response.SerializeToString()))

    def cut(self) -> None:
        """Ends the connection without a word."""
        self._writer.transport.abort()

    def of_kind(self, kind: Kind) -> list[Frame]:
        return [frame for frame in self.received if frame.kind == kind]


class FakeGateway:
    """Listens on loopback. `on_request` answers."""

    def __init__(self, node: str, root: Root, on_request: Callable[[Connection, Frame], Awaitable[None]]) -> None:
        self.node = node
        self.on_request = on_request
        self.heartbeat_ms = 240_000
        # Those that confirmed.
        self.connections: list[Connection] = []
        self._open: set[Connection] = set()
        self.key = X25519PrivateKey.generate()
        self._root = root
        self._identity = Ed25519PrivateKey.generate()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._open.add(connection)
        await connection.serve()
        self._open.discard(connection)

    async def stop(self) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.cut()
            await connection.is_over.wait()

    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def rotate_key(self) -> None:
        self.key = X25519PrivateKey.generate()

    def descriptor(self) -> bytes:
        """What the gateway says of itself now."""
        now_ms = _now_ms()
        life = now_ms.to_bytes(8, "big") + (now_ms + DAY_MS).to_bytes(8, "big")
        node = _block(1, self.node.encode())
        certificate = node + b"\1" + _block(2, self._identity.public_key().public_bytes_raw()) + life
        port = self._server.sockets[0].getsockname()[1]
        public = self.public_key()
        statement = (
            node
            + life
            + bytes([1, 1])
            + bytes([1, SUITE])
            + bytes([1, 1])
            + key_id(public)
            + life[8:]
            + _block(2, public)
            + b"\0"
            + bytes([1, 1])
            + _block(2, f"127.0.0.1:{port}".encode())
        )
        return (
            b"\1"
            + _block(2, _signed(self._root.secret, CERTIFICATE_DOMAIN, certificate))
            + _block(2, _signed(self._identity, STATEMENT_DOMAIN, statement))
        )

    def listed(self) -> dict[str, str]:
        """Its entry in the LBS's answer."""
        return {"node": self.node, "descriptor": base64.urlsafe_b64encode(self.descriptor()).decode().rstrip("=")}


def _signed(secret: Ed25519PrivateKey, domain: bytes, payload: bytes) -> bytes:
    signature = secret.sign(domain + payload)
    return _block(2, payload) + b"\1" + key_id(secret.public_key().public_bytes_raw()) + b"\1" + _block(2, signature)


def _block(length_of_length: int, raw: bytes) -> bytes:
    return len(raw).to_bytes(length_of_length, "big") + raw


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
