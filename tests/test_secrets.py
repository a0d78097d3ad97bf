"""Commands for people: copy-paste correct, and no secret in them."""

from __future__ import annotations

import shlex

from harness.launchers.process import by_hand
from harness.schema import Launch
from harness.secrets import is_secret, redacted_argv, redacted_env


def test_secrets_are_named_not_shown() -> None:
    env = {"HF_TOKEN": "hf_abc", "OPENAI_API_KEY": "sk-1", "TOKENIZERS_PARALLELISM": "false", "A": "b c"}
    assert redacted_env(env) == {**env, "HF_TOKEN": "${HF_TOKEN}", "OPENAI_API_KEY": "${OPENAI_API_KEY}"}
    assert redacted_argv(("x", "--api-key", "sk-1", "--api-key=sk-2", "--port", "1")) == (
        "x",
        "--api-key",
        "***",
        "--api-key=***",
        "--port",
        "1",
    )
    assert is_secret("MY_PASSWORD") and not is_secret("VLLM_USE_DEEP_GEMM")


def test_the_command_by_hand_parses_back() -> None:
    argv = ("vllm", "serve", "/models/a b", "--json", '{"a": "b"}')
    launch = Launch(
        variant="v", engine="vllm", launcher="process", argv=argv, env={"X": "a b", "HF_TOKEN": "hf_secret"}
    )
    text = by_hand(launch)
    assert "hf_secret" not in text
    words = shlex.split(text.replace("\\\n", ""))
    assert words[:2] == ["X=a b", "HF_TOKEN=${HF_TOKEN}"]
    assert tuple(words[2:]) == argv
