"""Files behind urls, fetched so that nobody can make the server look into its own network.

A host's addresses are judged after its name was resolved, and the connection goes to an address that was judged, not
to the name again (which could have changed in between). Each redirect is a new connection, and judged in the same way.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from ullava.serving.refusals import RefusedError, invalid, too_large

Resolve = Callable[[str, int], Sequence[str]]
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def is_public(address: str) -> bool:
    """Whether an IP address lies in the open internet: not private, loopback, link-local, reserved or multicast.

    IPv6 addresses that carry an IPv4 address to somewhere else (mapped, 6to4, Teredo, NAT64) are none.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        carries = ip.ipv4_mapped or ip.sixtofour or ip.teredo or any(ip in network for network in _NAT64)
        if carries or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _TimedStream(httpcore.NetworkStream):
    """A connection on which nothing lasts beyond ``ends``, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, ends: float) -> None:
        self._stream = stream
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._ends))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._ends))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left(self._ends)), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _JudgedAddresses(httpcore.NetworkBackend):
    """Connects to addresses that were judged."""

    def __init__(self, resolve: Resolve, allowed: Callable[[str], bool], ends: float) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._ends = ends
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("its host is not known") from error
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise RefusedError(
                403, "address_not_allowed", "the url leads to an address that is not in the open internet"
            )
        problem: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                stream = self._plain.connect_tcp(address, port, _left(self._ends), local_address, socket_options)
                return _TimedStream(stream, self._ends)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem


class Fetcher:
    """Gets files of up to ``max_bytes`` over http and https. Blocks; made for a thread of its own.

    ``resolve`` and ``allowed`` (address -> whether it may be connected to) are given by tests.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_s: float,
        max_redirects: int,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._max_redirects = max_redirects
        self._resolve = resolve
        self._allowed = allowed

    def get(self, url: str, param: str) -> bytes:
        """Return what is behind ``url``. ``param``: the field of the request that named it.

        Raises RefusedError: not http(s), an address that is not allowed, too many redirects, too large, too slow.
        """
        ends = time.monotonic() + self._timeout_s
        for _ in range(self._max_redirects + 1):
            check_url(url, param)
            try:
                found = self._once(url, ends, param)
            except RefusedError as refusal:
                raise RefusedError(refusal.status, refusal.code, refusal.message, param) from None
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
                raise invalid("the url cannot be fetched", param) from error
            except (httpcore.UnsupportedProtocol, ValueError) as error:  # h11 judges the characters of a target
                raise invalid("the url is not valid", param) from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise invalid(f"the url redirects more than {self._max_redirects} times", param)

    def _once(self, url: str, ends: float, param: str) -> bytes | str:
        """Return the body, or where a redirect leads."""
        headers = [("Host", urlsplit(url).netloc), ("Accept-Encoding", "identity"), ("User-Agent", "ullava")]
        with (
            httpcore.ConnectionPool(network_backend=_JudgedAddresses(self._resolve, self._allowed, ends)) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            told = {key.lower(): value.decode("latin-1") for key, value in response.headers}
            if response.status in _REDIRECTS and b"location" in told:
                return told[b"location"]
            if response.status != 200:
                raise invalid(f"the url answers with status {response.status}", param)
            if told.get(b"content-encoding", "identity") != "identity":
                raise invalid("the url answers with a compressed body", param)
            size = told.get(b"content-length", "0")
            if size.isdecimal() and int(size) > self._max_bytes:
                raise self._too_large(param)
            body = bytearray()
            for piece in response.iter_stream():
                body += piece
                if len(body) > self._max_bytes:
                    raise self._too_large(param)
            return bytes(body)

    def _too_large(self, param: str) -> RefusedError:
        return too_large(f"the file behind the url has more than {self._max_bytes} bytes", param)


def _left(ends: float) -> float:
    """Return the seconds until ``ends``. Raises httpcore.ReadTimeout when there are none."""
    left = ends - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


def check_url(url: str, param: str) -> None:
    """Raise RefusedError for anything but a plain http or https url: no file, no user name in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise invalid("the url is not valid", param) from None
    if parts.scheme not in ("http", "https"):
        raise invalid(f"a url of scheme '{parts.scheme[:20]}' is not read here; give http, https or a data URI", param)
    if not parts.hostname or parts.username is not None or port == 0 or not re.fullmatch(r"[!-~]+", url):
        raise invalid("the url is not valid", param)
