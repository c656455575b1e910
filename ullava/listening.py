"""Where a server of ours listens, and who reaches it there."""

from __future__ import annotations

import ipaddress
import socket

from ullava.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a host and port (0: any that is free). Raises UserError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({said})") from error
    return made


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
