"""Asking the LBS which gateways there are (docs/protocol.md, section 1). It is believed in nothing but their order."""

import asyncio
import base64
import binascii
import json
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from typing import Any

from .descriptor import Descriptor, DescriptorError, Floor, verify

log = logging.getLogger(__name__)

TIMEOUT_S = 10
# A list of 16 descriptors of the largest size stays below.
ANSWER_LEN_MAX = 1 << 20


class Directory:
    """The gateways as last heard; kept when no LBS answers."""

    def __init__(self, lbs: Sequence[str], root_keys: Sequence[bytes], app_key: str, floor: Floor) -> None:
        self._lbs = list(lbs)
        self._root_keys = list(root_keys)
        self._app_key = app_key
        self._floor = floor
        self._gateways: list[Descriptor] = []
        # What the LBS that answered last asked for.
        self.retry_after_ms = 0

    async def gateways(self, exclude: Iterable[str] = (), refresh: bool = False) -> list[Descriptor]:
        """Those to try, in order. Empty when nobody could name one."""
        if refresh or not self._gateways:
            self.retry_after_ms = 0
            for url in self._lbs:
                try:
                    answer = await asyncio.to_thread(self._ask, url, list(exclude))
                    self._gateways = self._take(answer) or self._gateways
                    break
                except urllib.error.HTTPError as error:
                    log.warning("%s gave no gateways: %s", url, error)
                    retry_after_s = error.headers.get("Retry-After", "")
                    self.retry_after_ms = int(retry_after_s) * 1000 if retry_after_s.isdecimal() else 0
                except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
                    log.warning("%s gave no gateways: %s", url, error)
        return [gateway for gateway in self._gateways if gateway.node not in set(exclude)]

    def believe(self, raw: bytes) -> Descriptor:
        """A descriptor from anywhere, if a pinned root stands behind it."""
        return verify(raw, self._root_keys, self._floor.time_ms())

    def replace(self, descriptor: Descriptor) -> None:
        """A gateway's newer descriptor takes the place of the one known."""
        self._gateways = [descriptor if known.node == descriptor.node else known for known in self._gateways]

    def _ask(self, url: str, exclude: list[str]) -> dict[str, Any]:
        query = {"app_key": self._app_key} | ({"exclude": ",".join(exclude)} if exclude else {})
        with urllib.request.urlopen(
            f"{url.rstrip('/')}/v1/gateways?{urllib.parse.urlencode(query)}", timeout=TIMEOUT_S
        ) as response:
            answer = json.loads(response.read(ANSWER_LEN_MAX))
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer

    def _take(self, answer: dict[str, Any]) -> list[Descriptor]:
        gateways = []
        for entry in answer["gateways"]:
            try:
                text = entry["descriptor"]
                raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
                gateways.append(self.believe(raw))
            except (DescriptorError, binascii.Error) as error:
                log.warning("the LBS names a gateway that is not to be believed: %s", error)
        # Only now: what the LBS says of the time must not judge the descriptors it came with.
        self._floor.heard(int(answer["server_time_ms"]))
        return gateways
