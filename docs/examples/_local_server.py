"""A server on a free port of this machine, for the examples that speak HTTP and were given no address of one."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def server_at(address: str | None, model: str) -> Iterator[str]:
    """Yield ``address``, or where a server of ``model`` listens, which ends with the block."""
    if address is not None:
        yield address.rstrip("/")
        return
    line = [sys.executable, "-m", "ullava", "serve", "--model", model, "--port", "0", "--no-page"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            for said in server.stdout:  # it says where it listens, or what keeps it from listening
                if told := re.search(r"http://127\.0\.0\.1:\d+", said):
                    yield told.group()
                    break
                print(said, end="", file=sys.stderr)
            else:
                sys.exit("the server did not start")
        finally:
            server.terminate()
