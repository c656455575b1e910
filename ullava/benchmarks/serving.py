"""Load on ``ullava serve``: many clients at once, errors, times, memory; and what batching gains over one by one.

The server is a process of its own, started by its command; here is only what its clients do.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import IO, Any

import psutil
from PIL import Image, ImageDraw

from ullava.errors import UserError

MIB = 1024 * 1024
_COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "white": (245, 245, 245)}
_QUERIES = tuple(f"the {color} {shape}" for color in _COLORS for shape in ("circle", "square"))
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_START_S = 600


def bench_serve(
    model: str, clients: int, requests: int, threads: int, device: str, max_batch: int = 32
) -> dict[str, Any]:
    """Send ``requests`` from ``clients`` at once, then a quarter of them to a server that answers one by one.

    Returns requests per second of both, their ratio, latencies in ms, errors by kind, and the server's memory in MiB
    when a quarter was answered and at the end. Raises UserError where the server does not start.
    """
    bodies = _bodies()
    batched = _load(model, clients, requests, threads, device, max_batch, bodies)
    single = _load(model, clients, max(requests // 4, clients), threads, device, 1, bodies)
    ratio = round(batched["requests_per_s"] / single["requests_per_s"], 2)
    return {
        "model": model,
        "clients": clients,
        "threads": threads,
        "batched": batched,
        "one_by_one": single,
        "gain": ratio,
    }


def table(report: dict[str, Any]) -> str:
    """Return a report of ``bench_serve`` in lines."""
    lines = []
    for name in ("batched", "one_by_one"):
        told = report[name]
        lines.append(
            f"{name:<11} {told['requests_per_s']:8.1f} requests/s   median {told['median_ms']:.0f} ms   "
            f"p99 {told['p99_ms']:.0f} ms   {told['answered']} answered   {sum(told['errors'].values())} errors   "
            f"memory {told['memory_mib'][0]:.0f} -> {told['memory_mib'][1]:.0f} MiB"
        )
    return "\n".join([*lines, f"batching answers {report['gain']} times as many requests"])


def _load(
    model: str, clients: int, requests: int, threads: int, device: str, max_batch: int, bodies: Sequence[bytes]
) -> dict[str, Any]:
    flags = ["--max-batch", str(max_batch), "--max-queue", str(2 * clients), "--timeout-s", "600"]
    with _server(model, threads, device, flags) as (port, process):
        for body in bodies[:4]:
            _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=600), body)
        numbers, memory = count(), [process.memory_info().rss / MIB]
        seconds: list[float] = []
        errors: Counter[str] = Counter()

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            while (number := next(numbers)) < requests:
                if number == requests // 4:
                    memory[0] = process.memory_info().rss / MIB
                begun = time.perf_counter()
                try:
                    kind = _ask(connection, bodies[number % len(bodies)])
                except (OSError, http.client.HTTPException, ValueError) as error:
                    kind = type(error).__name__
                    connection.close()
                seconds.append(time.perf_counter() - begun)
                if kind is not None:
                    errors[kind] += 1

        begun = time.perf_counter()
        workers = [threading.Thread(target=client) for _ in range(clients)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        taken = time.perf_counter() - begun
        memory.append(process.memory_info().rss / MIB)
    in_order = sorted(1000 * value for value in seconds)
    return {
        "max_batch": max_batch,
        "requests": requests,
        "answered": len(seconds) - sum(errors.values()),
        "errors": dict(errors),
        "requests_per_s": round((len(seconds) - sum(errors.values())) / taken, 2),
        "median_ms": round(statistics.median(in_order), 1),
        "p99_ms": round(in_order[min(int(0.99 * len(in_order)), len(in_order) - 1)], 1),
        "memory_mib": [round(value, 1) for value in memory],
    }


def _ask(connection: http.client.HTTPConnection, body: bytes) -> str | None:
    """Ask once; return what was wrong with the answer, None if nothing."""
    connection.request("POST", "/v1/predictions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    told = json.loads(response.read())
    if response.status != 200:
        return f"status {response.status}"
    return None if {"masks", "text", "finished"} <= set(told) else "incomplete"


@contextmanager
def _server(model: str, threads: int, device: str, flags: Sequence[str]) -> Iterator[tuple[int, psutil.Process]]:
    """A server on a free port of this machine, ended when it is not needed any more."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "ullava", "serve", "--model", model, "--device", device, "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True) as server:
        assert server.stderr is not None
        said: list[str] = []
        late = threading.Timer(_START_S, server.kill)
        late.start()
        try:
            for line in server.stderr:
                said.append(line)
                if (found := _ADDRESS.search(line)) is not None:
                    break
            else:
                reason = next((line.strip() for line in said if line.startswith("error:")), "it gave no reason")
                raise UserError(f"'ullava serve' does not start: {reason.removeprefix('error: ')}")
            late.cancel()
            # Its log goes where ours goes, so that the reason of an error can be read, and its pipe never fills.
            threading.Thread(target=_pass_on, args=(server.stderr,), daemon=True).start()
            yield int(found[1]), psutil.Process(server.pid)
        finally:
            late.cancel()
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _pass_on(log: IO[str]) -> None:
    for line in log:
        print(line, end="", file=sys.stderr)


def _bodies() -> list[bytes]:
    """Requests about eight small scenes, eight questions about each."""
    bodies = []
    for turn in range(len(_COLORS) * 2):
        image = Image.new("RGB", (128, 128), (120, 120, 120))
        draw = ImageDraw.Draw(image)
        for place, color in enumerate(_COLORS.values()):
            x, y = 8 + 60 * (place % 2), 8 + 60 * (place // 2)
            shape = draw.ellipse if (place + turn) % 2 else draw.rectangle
            shape((x, y, x + 30 + 2 * turn, y + 30 + 2 * turn), fill=color)
        file = io.BytesIO()
        image.save(file, "PNG")
        coded = base64.b64encode(file.getvalue()).decode()
        bodies += [json.dumps({"image": {"base64": coded}, "query": query}).encode() for query in _QUERIES]
    return bodies
