"""Gateways' descriptors: parsing and verifying them against the pinned roots (docs/protocol.md, section 2).

A descriptor is believed only after `verify`. Dates are judged by a floor, a time that is certainly past, never by the
device's clock.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .ids import key_id

DESCRIPTOR_LEN_MAX = 4093
LIST_LEN_MAX = 16
ENDPOINT_LEN_MAX = 300
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CERTIFICATE_LIFE_MAX_MS = 400 * DAY_MS
STATEMENT_LIFE_MAX_MS = 7 * DAY_MS
ED25519 = 1
X25519 = 1
TCP = 1
CERTIFICATE_DOMAIN = b"whimbrel gateway certificate 1\0"
STATEMENT_DOMAIN = b"whimbrel gateway statement 1\0"
_NODE = re.compile(r"[a-z0-9_-]{1,64}")

T = TypeVar("T")


class DescriptorError(Exception):
    """A descriptor that must not be used."""


@dataclass(frozen=True)
class GatewayKey:
    """An X25519 key of a gateway."""

    id: bytes
    public: bytes


@dataclass(frozen=True)
class Descriptor:
    """What a gateway says of itself, certified by a root."""

    node: str
    not_before_ms: int
    # The earlier end of certificate and statement.
    not_after_ms: int
    versions: tuple[int, ...]
    suites: tuple[int, ...]
    keys: tuple[GatewayKey, ...]
    # (transport, endpoint), best first.
    addresses: tuple[tuple[int, str], ...]

    def tcp_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP address; what is no address is passed over."""
        endpoints = (endpoint for transport, endpoint in self.addresses if transport == TCP)
        parts = (endpoint.rpartition(":") for endpoint in endpoints)
        return [(host.strip("[]"), int(port)) for host, _, port in parts if host and re.fullmatch(r"[0-9]{1,5}", port)]


@dataclass
class Floor:
    """A time that is certainly past, unix ms. 0 while nothing is known."""

    # When this client was built.
    built_ms: int = 0
    # What logins proved; to be kept on disk by a client that has one.
    proven_ms: int = 0
    # What an LBS said; for this run only.
    heard_ms: int = 0

    def time_ms(self) -> int:
        return max(self.built_ms, self.proven_ms, self.heard_ms)

    def logged_in(self, server_time_ms: int, descriptor: Descriptor) -> None:
        """A gateway is believed about the time up to the end of its own descriptor, and no further."""
        self.proven_ms = max(self.proven_ms, min(server_time_ms, descriptor.not_after_ms))

    def heard(self, server_time_ms: int) -> None:
        self.heard_ms = max(self.heard_ms, server_time_ms)


@dataclass
class _Reader:
    data: bytes
    at: int = field(default=0)

    def take(self, length: int) -> bytes:
        if len(self.data) - self.at < length:
            raise DescriptorError(f"the descriptor is cut: {length} bytes expected at {self.at} of {len(self.data)}")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def block(self, length_of_length: int) -> bytes:
        return self.take(self.number(length_of_length))

    def list(self, item: Callable[["_Reader"], T], at_least: int) -> list[T]:
        count = self.number(1)
        if not at_least <= count <= LIST_LEN_MAX:
            raise DescriptorError(f"a list of {count} entries: expected {at_least} to {LIST_LEN_MAX}")
        return [item(self) for _ in range(count)]

    def node(self) -> str:
        raw = self.block(1)
        node = raw.decode("ascii", "replace")
        if not _NODE.fullmatch(node):
            raise DescriptorError(f"{raw!r} is no node name")
        return node

    def end(self) -> None:
        if self.at != len(self.data):
            raise DescriptorError(f"{len(self.data) - self.at} bytes too many")


@dataclass(frozen=True)
class _Signed:
    payload: bytes
    # (key id, algorithm, signature)
    signatures: list[tuple[bytes, int, bytes]]

    @classmethod
    def parse(cls, raw: bytes) -> "_Signed":
        reader = _Reader(raw)
        payload = reader.block(2)
        signatures = reader.list(lambda r: (r.take(4), r.number(1), r.block(2)), at_least=0)
        reader.end()
        return cls(payload, signatures)

    def is_signed_by(self, public: bytes, domain: bytes) -> bool:
        wanted = key_id(public)
        for signer, algorithm, signature in self.signatures:
            if signer != wanted or algorithm != ED25519:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(signature, domain + self.payload)
                return True
            except (InvalidSignature, ValueError):
                continue
        return False


def verify(raw: bytes, root_keys: Sequence[bytes], floor_ms: int = 0) -> Descriptor:
    """The descriptor, if a pinned root stands behind it; else DescriptorError. `floor_ms` 0 judges no dates."""
    if len(raw) > DESCRIPTOR_LEN_MAX:
        raise DescriptorError(f"a descriptor of {len(raw)} bytes: at most {DESCRIPTOR_LEN_MAX} are allowed")
    reader = _Reader(raw)
    if (format_ := reader.number(1)) != 1:
        raise DescriptorError(f"format {format_} is not known here, only 1")
    certificate, statement = _Signed.parse(reader.block(2)), _Signed.parse(reader.block(2))
    reader.end()

    reader = _Reader(certificate.payload)
    certified_node, algorithm, identity = reader.node(), reader.number(1), reader.block(2)
    certified_from_ms, certified_to_ms = reader.number(8), reader.number(8)
    descriptor = _statement(statement.payload, certified_to_ms)
    statement_to_ms = _statement_end(statement.payload)

    if not any(certificate.is_signed_by(root, CERTIFICATE_DOMAIN) for root in root_keys):
        raise DescriptorError(f"no pinned root signed the certificate of {certified_node}")
    if algorithm != ED25519 or len(identity) != 32 or not statement.is_signed_by(identity, STATEMENT_DOMAIN):
        raise DescriptorError(f"the identity of {certified_node} did not sign the statement")
    if descriptor.node != certified_node:
        raise DescriptorError(f"the statement is of {descriptor.node}, the certificate of {certified_node}")
    for name, start_ms, end_ms, life_max_ms in (
        ("certificate", certified_from_ms, certified_to_ms, CERTIFICATE_LIFE_MAX_MS),
        ("statement", descriptor.not_before_ms, statement_to_ms, STATEMENT_LIFE_MAX_MS),
    ):
        if not 0 < end_ms - start_ms <= life_max_ms:
            raise DescriptorError(f"the {name} lives {end_ms - start_ms} ms: expected 1 to {life_max_ms}")
        if floor_ms > end_ms + HOUR_MS:
            raise DescriptorError(
                f"the {name} of {certified_node} ended at {end_ms} ms, it is later than {floor_ms} ms"
            )
    if not certified_from_ms - HOUR_MS <= descriptor.not_before_ms <= certified_to_ms + HOUR_MS:
        raise DescriptorError("the statement begins outside its certificate's life")
    return descriptor


def _statement_end(payload: bytes) -> int:
    reader = _Reader(payload)
    reader.node()
    reader.take(8)
    return reader.number(8)


def _statement(payload: bytes, certified_to_ms: int) -> Descriptor:
    reader = _Reader(payload)
    node, not_before_ms, not_after_ms = reader.node(), reader.number(8), reader.number(8)
    versions = reader.list(lambda r: r.number(1), at_least=1)
    suites = reader.list(lambda r: r.number(1), at_least=1)
    keys = reader.list(_gateway_key, at_least=1)
    if len(tls_key_sha256 := reader.block(1)) not in (0, 32):
        raise DescriptorError(f"a TLS key hash of {len(tls_key_sha256)} bytes: expected 32 or none")
    addresses = reader.list(_address, at_least=1)
    return Descriptor(
        node=node,
        not_before_ms=not_before_ms,
        not_after_ms=min(not_after_ms, certified_to_ms),
        versions=tuple(versions),
        suites=tuple(suites),
        keys=tuple(key for key in keys if key is not None),
        addresses=tuple(addresses),
    )


def _gateway_key(reader: _Reader) -> GatewayKey | None:
    algorithm, id_, _not_after_ms, public = reader.number(1), reader.take(4), reader.number(8), reader.block(2)
    is_usable = algorithm == X25519 and len(public) == 32 and id_ == key_id(public)
    return GatewayKey(id_, public) if is_usable else None


def _address(reader: _Reader) -> tuple[int, str]:
    transport, raw = reader.number(1), reader.block(2)
    if len(raw) > ENDPOINT_LEN_MAX:
        raise DescriptorError(f"an endpoint of {len(raw)} bytes: at most {ENDPOINT_LEN_MAX} are allowed")
    try:
        return transport, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DescriptorError(f"the endpoint {raw!r} is not UTF-8") from error
