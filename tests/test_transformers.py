"""The reference engine's adapter: what its server counts, under the names all engines share."""

from engines import transformers

METRICS = """# TYPE transformers:prompt_tokens_total counter
transformers:prompt_tokens_total 12
# TYPE transformers:generation_tokens_total counter
transformers:generation_tokens_total 34
# TYPE transformers:num_requests_running gauge
transformers:num_requests_running 1
# TYPE transformers:num_requests_waiting gauge
transformers:num_requests_waiting 2
"""
"""As engines/transformers_server.py writes it."""


def test_counters_have_canonical_names() -> None:
    found = transformers.counters(METRICS)
    assert found == {"prompt_tokens": 12, "generation_tokens": 34, "running": 1, "waiting": 2}


def test_a_page_that_is_no_metrics_has_none() -> None:
    assert transformers.counters("<html>502</html>") == {}
