"""Secrets in a log: blotted out wherever the pieces of a stream are cut."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.blotting import Blotter, blotting
from harness.schema import Launch
from harness.secrets import secrets_of

SECRETS = ("sesame", "sesame-open", "aab")
TEXT = st.lists(st.sampled_from([*SECRETS, "ses", "aa", "a", "b", "ame", " ", "\n"])).map("".join)


@given(TEXT, st.lists(st.integers(0, 60)))
def test_no_split_lets_a_secret_through(text: str, cuts: list[int]) -> None:
    blotter, data = Blotter(SECRETS), text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    out = b"".join(blotter.feed(data[a:b]) for a, b in pairwise(edges)) + blotter.end()
    assert not any(secret.encode() in out for secret in SECRETS)
    if not any(secret in text for secret in SECRETS):
        assert out == data


def test_what_cannot_become_a_secret_is_not_held_back() -> None:
    blotter = Blotter(["sesame"])
    assert blotter.feed(b"loading 10%\r") == b"loading 10%\r"
    assert (blotter.feed(b"key ses"), blotter.feed(b"t\n"), blotter.end()) == (b"key ", b"sest\n", b"")


def test_a_launchs_secrets_are_those_of_flags_variables_and_the_key() -> None:
    os.environ["BLOT_TEST"] = "key-of-ours"
    launch = Launch(
        variant="v",
        engine="mock",
        launcher="process",
        argv=("serve", "--api-key", "key-one", "--hf-token=tok-two", "--seed", "1"),
        env={"HF_TOKEN": "tok-three", "OMP_NUM_THREADS": "4", "X_API_KEY": "k"},
        api_key_env="BLOT_TEST",
    )
    assert secrets_of(launch) == ("key-of-ours", "key-one", "tok-three", "tok-two")
    assert secrets_of(Launch(variant="v", engine="mock", launcher="process", argv=("serve",))) == ()


def test_a_process_writes_through_it_into_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    script = "import sys; print('args', sys.argv[1:], flush=True); print('and', sys.argv[1][::-1])"
    with blotting(log, ["sesame"]) as (out, copier):
        process = subprocess.Popen([sys.executable, "-c", script, "sesame"], stdout=out)
    assert process.wait(20) == 0 and copier is not None and copier.wait(20) == 0
    assert log.read_text() == "args ['***']\nand emases\n"
