"""Figures for Prometheus, under the names that the field uses. No question, key or passage is a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .record import RequestRecord

__all__ = ["CONTENT_TYPE", "Metrics", "StateCollector"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_ROWS = (1, 2, 3, 5, 9, 17, 33, 65, 129)
_NATS = (-1, -0.5, 0, 0.05, 0.1, 0.25, 0.5, 1, 2, 4)


class StateCollector(Collector):
    """Figures that are read when they are asked for.

    Args:
        gauges: by name without `nbce_`: (what it says, its values by label; "" for the one without). The
            label is the part of the name after the dot: "kv_store_bytes.tier".
        counters: as gauges.
    """

    def __init__(
        self,
        gauges: Mapping[str, tuple[str, Callable[[], Mapping[str, float]]]],
        counters: Mapping[str, tuple[str, Callable[[], Mapping[str, float]]]],
    ) -> None:
        self._groups = ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters))

    def collect(self) -> Iterable[Metric]:
        """One family a figure."""
        for kind, figures in self._groups:
            for name, (description, read) in figures.items():
                name, _, label = name.partition(".")
                family = kind(f"nbce_{name}", description, labels=[label] if label else [])
                for value, number in read().items():
                    family.add_metric([value] if label else [], number)
                yield family


class Metrics:
    """The figures of one server. Threads may count at once.

    Attributes:
        registry: of prometheus_client; nothing of it is global.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "nbce_requests", "Requests that are over.", ["endpoint", "status"], registry=registry
        )
        self._rejected = Counter(
            "nbce_requests_rejected", "Requests that were turned away.", ["reason"], registry=registry
        )
        self._cancelled = Counter("nbce_requests_cancelled", "Requests whose client left.", registry=registry)
        self._under_way = Gauge("nbce_http_requests_running", "Requests under way.", registry=registry)
        self._abstentions = Counter(
            "nbce_abstentions", "Answers without evidence in the passages.", registry=registry
        )
        self._prompt = Counter(
            "nbce_prompt_tokens", "Prompt tokens over all rows.", ["source"], registry=registry
        )
        self._generated = Counter(
            "nbce_generated_tokens", "Tokens of answers and thoughts.", registry=registry
        )
        self._finish = Counter(
            "nbce_answers", "Answers by what ended them.", ["finish_reason"], registry=registry
        )
        self._seconds = {
            name: Histogram(f"nbce_{name}_seconds", description, buckets=buckets, registry=registry)
            for name, description, buckets in (
                ("queue", "Waiting for a turn.", _SECONDS),
                ("retrieve", "Searching for passages.", _SECONDS),
                ("prefill", "Reading the prompts of all rows.", _SECONDS),
                ("first_token", "From the turn to the first token.", _SECONDS),
                ("token", "Between two tokens of an answer.", _TOKEN_SECONDS),
            )
        }
        self._request_seconds = Histogram(
            "nbce_request_seconds", "Requests, whole.", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._rows = Histogram(
            "nbce_rows_per_request", "Rows of a question.", buckets=_ROWS, registry=registry
        )
        self._grounding = Histogram(
            "nbce_grounding_nats", "Grounding of answers, nats a token.", buckets=_NATS, registry=registry
        )

    def add(self, collector: Collector) -> None:
        """Adds figures that are read when they are asked for."""
        self.registry.register(collector)

    def begin(self) -> None:
        """A request has come."""
        self._under_way.inc()

    def reject(self, reason: str) -> None:
        """A request was turned away: "queue_full", "queue_tokens", "rate_limit_exceeded", "draining", ..."""
        self._rejected.labels(reason).inc()

    def observe(self, record: RequestRecord) -> None:
        """A request is over."""
        self._under_way.dec()
        self._requests.labels(record.endpoint, str(record.status)).inc()
        self._request_seconds.labels(record.endpoint).observe(record.seconds)
        if record.is_cancelled:
            self._cancelled.inc()
        if record.queue is not None:
            self._seconds["queue"].observe(record.queue)
        if record.finish_reason is None:
            return
        self._finish.labels(record.finish_reason).inc()
        if record.abstained:
            self._abstentions.inc()
        for name in ("retrieve", "prefill", "first_token"):
            value = getattr(record, name)
            if value is not None:
                self._seconds[name].observe(value)
        generated, prompt, cached = (
            record.generated_tokens or 0,
            record.prompt_tokens or 0,
            record.cached_tokens or 0,
        )
        self._generated.inc(generated)
        self._prompt.labels("computed").inc(prompt - cached)
        self._prompt.labels("cached").inc(cached)
        if generated > 1 and record.decode is not None:
            self._seconds["token"].observe(record.decode / generated)
        self._rows.observe(record.rows or 0)
        if record.grounding is not None:
            self._grounding.observe(record.grounding)

    def text(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self.registry)
