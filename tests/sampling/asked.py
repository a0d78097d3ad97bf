"""The ways of sampling that the campaigns ask for."""

from __future__ import annotations

from harness.schema import Sampling

ASKED = {
    "t1": Sampling(),
    "t0.7-p0.9-k50": Sampling(temperature=0.7, top_p=0.9, top_k=50),
    "t0.8-rp1.1-pp0.5": Sampling(temperature=0.8, repetition_penalty=1.1, presence_penalty=0.5),
}
