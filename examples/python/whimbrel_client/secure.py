"""Hello, answer, Noise handshake and sealed records (docs/protocol.md, sections 3 to 5). Bytes in, bytes out."""

from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseValueError

MAGIC = bytes.fromhex("f757424c")
VERSION = 1
HELLO_LEN_MAX = 4096
LOGIN_LEN_MAX = 4036
ANSWER_BODY_LEN_MAX = HELLO_LEN_MAX - 3
TAG_LEN = 16
RECORD_LEN_MIN, RECORD_LEN_MAX = 19, 65_535
PLAINTEXT_FROM_CLIENT_MAX = 16_384
REKEY_EVERY = 1 << 16
RECORDS_MAX = 1 << 48

# Noise's name, AEAD, byte order of the nonce.
SUITES: dict[int, tuple[bytes, type[AESGCM] | type[ChaCha20Poly1305], Literal["big", "little"]]] = {
    1: (b"Noise_NK_25519_AESGCM_SHA256", AESGCM, "big"),
    2: (b"Noise_NK_25519_ChaChaPoly_SHA256", ChaCha20Poly1305, "little"),
}


class SecureError(Exception):
    """The other side is not who it should be, or somebody changed bytes on the way."""


@dataclass(frozen=True)
class Accept:
    message_2: bytes


@dataclass(frozen=True)
class Reject:
    """A hint that anybody on the way could have forged."""

    reason: int
    retry_after_ms: int


@dataclass(frozen=True)
class StaleKey:
    descriptor: bytes


Answer = Accept | Reject | StaleKey
OVERLOADED = 5


def parse_answer(type_: int, body: bytes) -> Answer:
    """What the gateway answered; unknown types and short rejects count as overloaded."""
    if type_ == 1:
        return Accept(body)
    if type_ == 2 and len(body) >= 6:
        return Reject(int.from_bytes(body[:2], "big"), int.from_bytes(body[2:6], "big"))
    if type_ == 3:
        return StaleKey(body)
    return Reject(OVERLOADED, 0)


class Direction:
    """The records of one direction: a key, a counter, a rekey every 65,536."""

    def __init__(self, suite: int, key: bytes, count: int = 0) -> None:
        _, self._aead, self._byte_order = SUITES[suite]
        self.key = key
        self.count = count
        self._cipher = self._aead(key)

    def seal(self, plaintext: bytes) -> bytes:
        """The record of one plaintext, its length in front."""
        sealed = self._cipher.encrypt(self._nonce(self._number()), plaintext, b"")
        self._step()
        return len(sealed).to_bytes(2, "big") + sealed

    def open(self, ciphertext: bytes) -> bytes:
        """The plaintext of the next record, given without its length."""
        if not RECORD_LEN_MIN <= len(ciphertext) + 2 <= RECORD_LEN_MAX:
            raise SecureError(f"a record of {len(ciphertext) + 2} bytes")
        try:
            plaintext = self._cipher.decrypt(self._nonce(self._number()), ciphertext, b"")
        except InvalidTag as error:
            raise SecureError(f"record {self.count} does not open") from error
        self._step()
        return plaintext

    def _number(self) -> int:
        if self.count >= RECORDS_MAX:
            raise SecureError("the direction has used up its records")
        return self.count

    def _step(self) -> None:
        self.count += 1
        if self.count % REKEY_EVERY == 0:
            self.key = self._cipher.encrypt(self._nonce(2**64 - 1), bytes(32), b"")[:32]
            self._cipher = self._aead(self.key)

    def _nonce(self, number: int) -> bytes:
        return bytes(4) + number.to_bytes(8, self._byte_order)


@dataclass(frozen=True)
class Established:
    """What a finished handshake gives."""

    login_answer: bytes
    outgoing: Direction
    incoming: Direction
    handshake_hash: bytes


class Handshake:
    """The client's side of Noise_NK. `hello` goes out first; the accept's body goes into `finish`."""

    def __init__(
        self, suite: int, key_id: bytes, gateway_key: bytes, login: bytes, ephemeral_for_tests: bytes | None = None
    ) -> None:
        if len(login) > LOGIN_LEN_MAX:
            raise ValueError(f"a login of {len(login)} bytes: at most {LOGIN_LEN_MAX} fit; is the token too long?")
        self._suite = suite
        name, _, _ = SUITES[suite]
        body_len = 1 + 4 + 32 + len(login) + TAG_LEN
        self.prologue = MAGIC + bytes([VERSION]) + body_len.to_bytes(2, "big") + bytes([suite]) + key_id
        self._noise = NoiseConnection.from_name(name)
        self._noise.set_as_initiator()
        self._noise.set_prologue(self.prologue)
        self._noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, gateway_key)
        if ephemeral_for_tests is not None:
            self._noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral_for_tests)
        self._noise.start_handshake()
        # A gateway key that gives an all-zero secret fails in here.
        self.hello = self.prologue + bytes(self._noise.write_message(login))

    def finish(self, message_2: bytes) -> Established:
        """Proves that the gateway has the key of its descriptor, and gives its answer to the login."""
        try:
            padded = bytes(self._noise.read_message(message_2))
        except (InvalidTag, NoiseValueError, ValueError) as error:
            raise SecureError("the gateway does not hold the key of its descriptor") from error
        length = int.from_bytes(padded[:2], "big")
        if len(padded) < 2 + length:
            raise SecureError("the login's answer is cut")
        state = self._noise.noise_protocol
        return Established(
            login_answer=padded[2 : 2 + length],
            outgoing=Direction(self._suite, state.cipher_state_encrypt.k),
            incoming=Direction(self._suite, state.cipher_state_decrypt.k),
            handshake_hash=self._noise.get_handshake_hash(),
        )
