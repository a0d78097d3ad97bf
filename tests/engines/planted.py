"""The mock engine behind a package of its own, whose releases may be slow, wrong, broken. For tests only."""

from __future__ import annotations

from msgspec.structs import replace

from harness import registry
from harness.schema import Deployment, Effective, Evidence, Launch, Variant

SCORING = "prompt_logprobs"
KEEPS_NOTHING = True


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """The installed release, which hands over to the mock server as that release behaves."""
    served: Launch = registry.engine("mock").launch(deployment, variant)
    return replace(served, argv=(deployment.python, "-m", "planted", *served.argv))


def effective(evidence: Evidence) -> Effective:
    """It says which release it is in its log."""
    said = {line.split("=")[0]: line.split("=")[1] for line in evidence.log if line.count("=") == 1}
    return Effective(engine_version=said.get("planted"), dtype=said.get("dtype"), proof={"dtype": "log"})
