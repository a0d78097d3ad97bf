"""The mock with a prefix cache and no endpoint that empties it, like TensorRT-LLM. For tests only."""

from __future__ import annotations

from msgspec.structs import replace

from harness.schema import Deployment, Launch, Variant
from tests.engines import mock

SCORING = mock.SCORING
effective = mock.effective


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """The mock's own program."""
    return replace(mock.launch(deployment, variant), engine="hoarder")
