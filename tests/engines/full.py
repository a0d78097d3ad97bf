"""An engine that has all an engine can have, in its own files alone: this one, full.toml and its parser's.

For tests only (HARNESS_ENGINES=tests/engines). Its server is the mock's with counters of its own.
"""

from __future__ import annotations

import sys

from aiohttp import web

from harness.label.dialect import Parser
from harness.label.findings import counters as find_counters
from harness.label.known import Case, Warnings
from harness.schema import Deployment, Effective, Evidence, Launch, Variant
from tests.engines import mock

SCORING = mock.SCORING
KEEPS_NOTHING = True
PACKAGE = "full_serving"
VARIABLES = ("FULL_", "MOCK_")
CACHES = {"full": ".cache/full"}
FAKE_FLAGS = {"--gates": "random"}
FAKE_VARIABLES = "FULL_RANDOM_GATES"
PARSER = Parser(program="--", environment="llamacpp", package="full-serving")


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """This very file, served; its own arguments stand behind a "--"."""
    started = mock.launch(deployment, variant)
    argv = (sys.executable, __file__, str(deployment.port), "--", *variant.args, *deployment.extra_args)
    return Launch(argv=argv, env=started.env, ready_timeout_s=20.0, stop_grace_s=5.0)


def effective(evidence: Evidence) -> Effective:
    """It says what it is in its log."""
    return mock.effective(evidence)


def counters(metrics: str) -> dict[str, float]:
    """The engine's own counters under canonical names."""
    return find_counters(metrics, {"generation_tokens": ("full:made_total",)})


ARCHITECTURES = ("Qwen3MoeForCausalLM",)


def fits(variant: Variant, input_len: int) -> str:
    """It reads a thousand tokens at most."""
    return "" if input_len <= 1000 else f"{variant.name} reads 1000 tokens, not {input_len}"


def _eager_and_lazy(case: Case) -> bool:
    return "--eager" in case.flags and "--lazy" in case.flags


WARNINGS: Warnings = ((_eager_and_lazy, "--eager and --lazy fail together; drop one"),)


def main() -> None:
    """The mock's server, which counts what it made."""
    print("dtype=float32", flush=True)
    served = mock.Mock()
    app = mock.application(served)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=f"# TYPE full:made counter\nfull:made_total {served.made}\n")

    app.router.add_get("/metrics", metrics)
    mock.serve(app)


if __name__ == "__main__":
    main()
