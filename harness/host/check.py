"""One thing that `just doctor` looked at."""

from __future__ import annotations

from typing import Literal

from harness.schema import Noun

State = Literal["ok", "warn", "missing", "info"]


class Check(Noun):
    """One thing looked at. `advice` is what to do when it is not ok."""

    name: str
    state: State
    detail: str
    advice: str = ""
