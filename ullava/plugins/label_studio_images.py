"""The images of Label Studio's tasks, fetched from Label Studio and from hosts that were named, and from no other.

What tasks say: a path of Label Studio's own (``/data/upload/...``, ``/data/local-files/?d=...``), a url, a data URI, or
an address of cloud storage, which Label Studio leads to the file (``/tasks/ID/presign/``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ullava.errors import DataError, UserError
from ullava.media.images import decode_image_rgb_u8
from ullava.structures import ImageArray

_CLOUD = re.compile(r"(s3|gs|azure-blob)://", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_MIB = 1024 * 1024


class ImageSource:
    """Reads images as a Label Studio at ``url`` (http://host:port) knows them.

    ``token``: of one of its users: a legacy token, or a personal access token (which is exchanged for short-lived
    ones). It is sent to that Label Studio alone. ``hosts``: further hosts that tasks and redirects may name.
    Raises UserError: ``url`` is none.
    """

    def __init__(
        self,
        url: str | None,
        token: str | None = None,
        hosts: Sequence[str] = (),
        *,
        max_mib: int = 32,
        max_megapixels: int = 50,
        timeout_s: float = 20.0,
    ) -> None:
        if url is not None and not _is_address(url):
            raise UserError(f"'{url}': expected where Label Studio is, such as http://localhost:8080")
        self.url = None if url is None else url.rstrip("/") + "/"
        self.hosts = frozenset(host.lower() for host in hosts)
        self.max_mib, self.max_megapixels, self.timeout_s = max_mib, max_megapixels, timeout_s
        self._token = token
        self._access = ""
        self._lock = threading.Lock()

    def read(self, given: str, task: Any = None) -> ImageArray:
        """Return an image uint8 [H, W, 3], upright. ``task``: the id of the task that names it.

        Raises DataError: a host that is not allowed, nothing there, too large, no image.
        """
        shown = given[:100]
        data = _inline(given) if _DATA_URI.match(given) else self._fetch(self._address(given, task), shown)
        return decode_image_rgb_u8(data, shown, self.max_megapixels * 1_000_000)

    def _address(self, given: str, task: Any) -> str:
        """Return the url of what a task names."""
        if re.match(r"https?://", given, re.IGNORECASE):
            return given
        if self.url is None:
            raise DataError(f"{given[:100]}: where Label Studio is was not said (--url, or LABEL_STUDIO_URL)")
        if _CLOUD.match(given):
            code = base64.urlsafe_b64encode(given.encode()).decode()
            return urljoin(self.url, f"tasks/{quote(str(task), safe='')}/presign/?fileuri={code}")
        if "://" in given[:20]:
            raise DataError(f"{given[:100]}: an address of this kind is not read")
        path = given.lstrip("/")
        path = f"data/{path}" if path.startswith("upload/") else path
        return self.url + quote(path, safe="/?=&%#+,;:@~!$'()*")

    def _fetch(self, url: str, shown: str) -> bytes:
        self.check(url)
        opener = build_opener(_Redirects(self))
        for attempt in range(2):
            request = Request(url, headers={"User-Agent": "ullava"})
            if self.is_own(url) and self._token:
                request.add_header("Authorization", self._authorization(renew=attempt > 0))
            try:
                with opener.open(request, timeout=self.timeout_s) as response:
                    data = response.read(self.max_mib * _MIB + 1)
            except HTTPError as error:
                if error.code == 401 and attempt == 0 and self.is_own(url) and _is_jwt(self._token):
                    continue
                hint = "; is LABEL_STUDIO_API_KEY right?" if error.code in (401, 403) and self.is_own(url) else ""
                raise DataError(f"{shown}: answers with status {error.code}{hint}") from error
            except (OSError, ValueError, HTTPException) as error:
                raise DataError(f"{shown}: cannot be fetched ({str(error)[:200]})") from error
            if len(data) > self.max_mib * _MIB:
                raise DataError(f"{shown}: has more than {self.max_mib} MiB")
            return bytes(data)
        raise DataError(f"{shown}: Label Studio takes the token no longer")

    def check(self, url: str) -> None:
        """Raise DataError where ``url`` is neither Label Studio's nor of a host that was named."""
        try:
            scheme, host, _ = _origin(url)
        except ValueError as error:  # brackets that nothing closes, or a port that there is none of
            raise DataError(f"{url[:100]}: not a valid url") from error
        if scheme not in ("http", "https") or not (self.is_own(url) or host in self.hosts):
            raise DataError(f"{url[:100]}: images are not fetched from '{host[:60]}' (--image-host allows a host)")

    def is_own(self, url: str) -> bool:
        """Whether a url is one of Label Studio's own: same scheme, host and port."""
        return self.url is not None and _origin(url) == _origin(self.url)

    def _authorization(self, renew: bool) -> str:
        """Return the header's value; a personal access token is exchanged first."""
        if not _is_jwt(self._token):
            return f"Token {self._token}"
        with self._lock:
            if renew or not self._access:
                body = json.dumps({"refresh": self._token}).encode()
                headers = {"Content-Type": "application/json", "User-Agent": "ullava"}
                request = Request(urljoin(self.url or "", "api/token/refresh/"), body, headers)
                try:
                    with build_opener(_Redirects(self)).open(request, timeout=self.timeout_s) as response:
                        self._access = str(json.loads(response.read(_MIB))["access"])
                except (OSError, ValueError, KeyError, TypeError, HTTPException) as error:
                    raise DataError(f"Label Studio does not take the access token ({str(error)[:200]})") from error
            return f"Bearer {self._access}"


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to allowed hosts; the token goes to Label Studio alone."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        self.source.check(newurl)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and not self.source.is_own(newurl):
            made.remove_header("Authorization")
        return made


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_address(url: str) -> bool:
    try:
        scheme, host, _ = _origin(url)
    except ValueError:
        return False
    return scheme in ("http", "https") and bool(host)


def _is_jwt(token: str | None) -> bool:
    return token is not None and token.count(".") == 2


def _inline(given: str) -> bytes:
    head, _, content = given.partition(",")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{given[:60]}: not valid base64") from error
