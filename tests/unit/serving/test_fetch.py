"""Files behind urls: what is refused, where connections go. Everything here stays on this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("httpcore", reason="the server needs the extra: pip install 'ullava[serve]'")

from ullava.serving.fetch import Fetcher, check_url, is_public
from ullava.serving.refusals import RefusedError


class Site(BaseHTTPRequestHandler):
    """A site that misbehaves in every way."""

    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        Site.asked.append((self.path, self.headers["Host"]))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "status":
            self.send_error(int(rest))
        elif kind == "long":
            self.send_response(200)
            self.send_header("Content-Length", rest)
            self.end_headers()
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x" * 1000)
        elif kind == "drip":
            for _ in range(100):
                try:
                    self.wfile.write(b"H")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
        elif kind == "packed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Site.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://pictures.test:{server.server_port}"
    server.shutdown()
    server.server_close()


def here(host: str, port: int) -> list[str]:
    return {"pictures.test": ["127.0.0.1"], "inside.test": ["10.0.0.7"], "both.test": ["127.0.0.1", "10.0.0.7"]}[host]


def fetcher(**options: Any) -> Fetcher:
    given = {"max_bytes": 10_000, "timeout_s": 5.0, "max_redirects": 2, "resolve": here}
    return Fetcher(**{**given, "allowed": lambda address: address == "127.0.0.1", **options})


def refused(made: Fetcher, url: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        made.get(url, "image.url")
    assert caught.value.param == "image.url"
    return caught.value


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:a00:1::",
        "2001:0:1::", "2001:db8::1", "no address", "",
    ],
)  # fmt: skip
def test_addresses_within_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.1.1", "2606:4700::1111"])
def test_addresses_of_the_open_internet_are(address: str) -> None:
    assert is_public(address)


def test_a_file_is_fetched_under_its_own_name(site: str) -> None:
    assert fetcher().get(f"{site}/a.png?b=c", "image.url") == b"hello"
    assert Site.asked == [("/a.png?b=c", site.removeprefix("http://"))]


def test_redirects_are_followed_as_far_as_allowed(site: str) -> None:
    assert fetcher().get(f"{site}/to//a.png", "image.url") == b"hello"
    assert "redirects more than 2 times" in refused(fetcher(), f"{site}/to//to//to//a.png").message


def test_nothing_connects_to_addresses_that_are_not_public(site: str) -> None:
    for url in (site, site.replace("pictures.test", "127.0.0.1"), site.replace("pictures.test", "localhost")):
        error = refused(Fetcher(10_000, 5.0, 2, resolve=lambda host, port: ["127.0.0.1"]), f"{url}/a.png")
        assert (error.status, error.code) == (403, "address_not_allowed")
    assert Site.asked == []


def test_one_bad_address_among_several_is_enough_to_refuse(site: str) -> None:
    assert refused(fetcher(), site.replace("pictures", "both")).code == "address_not_allowed"
    assert Site.asked == []


@pytest.mark.parametrize(
    "target", ["http://inside.test/", "file:///etc/passwd", "gopher://pictures.test/", "//inside.test/x"]
)
def test_a_redirect_is_judged_like_a_url(site: str, target: str) -> None:
    assert refused(fetcher(), f"{site}/to/{target}").code in ("address_not_allowed", "invalid_request")
    assert len(Site.asked) == 1


def test_the_connection_goes_to_the_address_that_was_judged(site: str) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.7"]])  # a name server that changes its mind right after the check
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    assert fetcher(resolve=resolve).get(f"{site}/a.png", "image.url") == b"hello"
    assert asked == ["pictures.test"]


def test_what_is_too_large_is_not_read_to_its_end(site: str) -> None:
    for path in ("long/99999", "endless/"):
        error = refused(fetcher(), f"{site}/{path}")
        assert (error.status, error.code) == (413, "too_large")


@pytest.mark.parametrize("path", ["drip/", "long/50"])
def test_what_is_too_slow_is_left(site: str, path: str) -> None:
    begun = time.monotonic()
    assert "cannot be fetched" in refused(fetcher(timeout_s=0.4), f"{site}/{path}").message
    assert time.monotonic() - begun < 3


def test_answers_that_are_no_file_are_refused(site: str) -> None:
    assert "status 404" in refused(fetcher(), f"{site}/status/404").message
    assert "compressed" in refused(fetcher(), f"{site}/packed/").message


def test_hosts_that_are_not_there_are_refused() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such host at 10.0.0.1")

    assert refused(fetcher(resolve=unknown), "http://pictures.test/").message == "the url cannot be fetched"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert refused(fetcher(), f"http://pictures.test:{port}/").message == "the url cannot be fetched"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://a.test/", "/etc/passwd", "", "http://", "http://user:word@a.test/",
        "http://a.test:0/", "http://a.test:99999/", "http://a b.test/", "http://a.test/\r\nX: y", "http://ä.test/",
    ],
)  # fmt: skip
def test_urls_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_url(url, "image.url")
    assert caught.value.status == 400
