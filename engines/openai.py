"""Any running OpenAI-compatible endpoint somebody else runs: nothing is launched, little is shown."""

from __future__ import annotations

from harness.errors import InputError
from harness.schema import Deployment, Effective, Evidence, Launch, Variant

LAUNCHER = "attach"


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Where the endpoint is. Raises InputError without url=."""
    if not deployment.url:
        raise InputError(f"{variant.name} needs url=http://host:port, the base URL of the running server.")
    return Launch(
        ready_path="/v1/models",
        # It may be TensorRT-LLM, whose /metrics is a queue that its owner reads: nothing here needs it.
        metrics_path="",
        ready_timeout_s=60.0,
    )


def effective(evidence: Evidence) -> Effective:
    """Only what /v1/models and /version say."""
    version = evidence.version.get("version")
    models = evidence.models.get("data") or [{}]
    length = models[0].get("max_model_len")
    return Effective(
        engine_version=str(version) if version else None,
        max_model_len=int(length) if length else None,
        proof={"max_model_len": "/v1/models"} if length else {},
    )
