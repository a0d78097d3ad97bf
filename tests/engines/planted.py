"""The mock engine behind a package of its own, whose releases may be slow, wrong, broken. For tests only."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.schema import Deployment, Effective, Evidence, Launch, Variant

SCORING = "prompt_logprobs"
KEEPS_NOTHING = True


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """The installed release, which hands over to the mock server as that release behaves."""
    server = Path(__file__).with_name("mock.py")
    return Launch(
        argv=(deployment.python, "-m", "planted", sys.executable, str(server), str(deployment.port)),
        env={"PYTHONPATH": deployment.root, "MOCK_HOST": deployment.host, **deployment.extra_env},
        ready_timeout_s=20.0,
        stop_grace_s=5.0,
    )


def effective(evidence: Evidence) -> Effective:
    """It says which release it is in its log."""
    said = {line.split("=")[0]: line.split("=")[1] for line in evidence.log if line.count("=") == 1}
    return Effective(engine_version=said.get("planted"), dtype=said.get("dtype"), proof={"dtype": "log"})
