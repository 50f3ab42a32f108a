"""Figures for Prometheus: what is counted, by which names, and what is never a label."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.metrics import Metrics
from nbce_rag.server.record import RequestRecord

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]
BODY = {"question": "What is the code of Zeta?", "index": "codes"}


def settled(server: Any, **options: Any) -> Figures:
    """`figures` once no request but this one is under way: a reply is counted after it was sent."""
    for _ in range(500):
        values = figures(server, **options)
        if values["nbce_http_requests_running", ()] <= 1:
            return values
        time.sleep(0.01)
    raise AssertionError(values)


def figures(server: Any, **options: Any) -> Figures:
    """Values by (name, labels)."""
    text = server.get("/metrics", **options).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_questions_are_counted(server: Any) -> None:
    before = settled(server)
    report = server.post("/v1/ask", BODY).json()
    server.post("/v1/ask", {**BODY, "stream": True})
    after = settled(server)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert grown("nbce_requests_total", endpoint="/v1/ask", status="200") == 2
    assert grown("nbce_generated_tokens_total") == 2 * report["usage"]["generated_tokens"]
    computed, cached = (grown("nbce_prompt_tokens_total", source=one) for one in ("computed", "cached"))
    assert computed + cached == 2 * report["usage"]["prompt_tokens"]
    for name in ("queue", "retrieve", "prefill", "first_token"):
        assert grown(f"nbce_{name}_seconds_count") == 2
    assert grown("nbce_rows_per_request_count") == 2
    assert grown("nbce_request_seconds_count", endpoint="/v1/ask") == 2
    assert grown("nbce_answers_total", finish_reason=report["finish_reason"]) == 2
    assert after["nbce_requests_running", ()] == 0
    assert after["nbce_requests_waiting", ()] == 0
    assert after["nbce_ready", ()] == 1
    assert after["nbce_index_passages", (("index", "codes"),)] == 3
    assert after["nbce_kv_store_bytes", (("tier", "memory"),)] > 0
    assert ("nbce_kv_store_hits_total", (("tier", "disk"),)) in after


def test_what_is_refused_is_counted_by_its_reason(keyed_server: Any) -> None:
    chief = {"headers": {"authorization": "Bearer chief-key"}}
    key = ("nbce_requests_rejected_total", (("reason", "invalid_api_key"),))
    before = settled(keyed_server, **chief).get(key, 0)
    keyed_server.get("/v1/models", headers={"x-api-key": "wrong"})
    assert settled(keyed_server, **chief)[key] == before + 1


@pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")
def test_an_answer_without_evidence_is_counted(server: Any) -> None:
    before = settled(server).get(("nbce_abstentions_total", ()), 0)
    server.post("/v1/ask", {**BODY, "where": {"year": 1}})
    assert settled(server)["nbce_abstentions_total", ()] == before + 1


def test_no_label_holds_what_people_send(keyed_server: Any) -> None:
    headers = {"authorization": "Bearer chief-key"}
    keyed_server.post("/v1/ask", BODY, headers=headers)
    keyed_server.get("/v1/secret-path", headers=headers)
    httpx.request("BREW", keyed_server.url + "/coffee", headers=headers)
    text = keyed_server.get("/metrics", headers=headers).text
    for word in ("Zeta", "zeta", "chief", "stranger", "secret-path", "coffee"):
        assert word not in text
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {"endpoint", "status", "reason", "source", "finish_reason", "tier", "index", "le"}


def test_names_have_base_units() -> None:
    names = [family.name for family in Metrics().registry.collect()]
    assert {
        "nbce_requests",
        "nbce_requests_rejected",
        "nbce_requests_cancelled",
        "nbce_request_seconds",
        "nbce_queue_seconds",
        "nbce_prefill_seconds",
        "nbce_first_token_seconds",
        "nbce_token_seconds",
        "nbce_rows_per_request",
        "nbce_grounding_nats",
        "nbce_prompt_tokens",
        "nbce_generated_tokens",
        "nbce_abstentions",
    } <= set(names)
    assert all(name.startswith("nbce_") for name in names)


def test_a_request_that_answers_nothing_has_no_times_of_answers() -> None:
    metrics = Metrics()
    metrics.begin()
    metrics.observe(RequestRecord("r", endpoint="/v1/models", status=200, seconds=0.1, is_cancelled=True))
    text = metrics.text().decode()
    assert 'nbce_requests_total{endpoint="/v1/models",status="200"} 1.0' in text
    assert "nbce_requests_cancelled_total 1.0" in text
    assert "nbce_prefill_seconds_count 0.0" in text
    assert "nbce_http_requests_running 0.0" in text


def test_metrics_can_be_switched_off(reading_nbce: Any, server_indexes: dict[str, Any], run_app: Any) -> None:
    server = run_app(create_app(ServerSettings(metrics=False), Served(reading_nbce, server_indexes)))
    assert server.get("/metrics").status_code == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_cheap_enough_to_be_asked_always(server: Any, path: str) -> None:
    assert server.get(path).elapsed.total_seconds() < 5
