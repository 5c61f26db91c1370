"""Signs tokens as a customer's server would: JWT, HS256 (docs/protocol.md, section 4). Never ship this in a client."""

import base64
import hashlib
import hmac
import json
import time


def sign(secret: bytes, app_key: str, uid: str, ttl_s: int = 3600) -> str:
    """A token for `uid` that holds for `ttl_s` seconds."""
    now_s = int(time.time())
    header = {"alg": "HS256", "typ": "JWT"}
    claims = {"sub": uid, "app": app_key, "iat": now_s, "exp": now_s + ttl_s}
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return (signed + b"." + _base64url(hmac.digest(secret, signed, hashlib.sha256))).decode()


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
