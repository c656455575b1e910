"""What ``GET /metrics`` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server; several servers in one process do not mix."""

    def __init__(self) -> None:
        self.collected = CollectorRegistry()
        self.requests = Counter("ullava_requests", "Requests answered", ["route", "status"], registry=self.collected)
        self.seconds = Histogram(
            "ullava_request_seconds", "From the first byte to the last", ["route"], buckets=_SECONDS,
            registry=self.collected,
        )  # fmt: skip
        self.dropped = Counter(
            "ullava_dropped", "Requests given up: client gone, or out of time", ["reason"], registry=self.collected
        )
        self.open = Gauge("ullava_open_requests", "Requests not answered yet", registry=self.collected)
        self.loaded = Gauge("ullava_models_loaded", "Models in memory", registry=self.collected)
        self.waiting = Gauge("ullava_queue_waiting", "Answers not begun", ["model"], registry=self.collected)
        self.batch_rows = Histogram(
            "ullava_batch_rows", "Answers in a batch", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.collected,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "ullava_batch_seconds", "Time of a batch", ["model"], buckets=_SECONDS, registry=self.collected
        )
        self.queue_seconds = Histogram(
            "ullava_queue_seconds", "Time in the queue", ["model"], buckets=_SECONDS, registry=self.collected
        )
        self.tokens = Counter("ullava_tokens", "Tokens read and written", ["model", "kind"], registry=self.collected)

    def batch(self, model: str, rows: int, seconds: float) -> None:
        """Note a batch."""
        self.batch_rows.labels(model).observe(rows)
        self.batch_seconds.labels(model).observe(seconds)

    def watch(self, loaded: Callable[[], float], models: dict[str, Callable[[], float]]) -> None:
        """Read the gauges from these functions whenever somebody asks."""
        self.loaded.set_function(loaded)
        for name, waiting in models.items():
            self.waiting.labels(name).set_function(waiting)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.collected)
