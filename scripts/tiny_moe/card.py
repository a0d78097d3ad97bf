"""The checkpoint's README.md."""

import json
from typing import Any

from tiny_moe.evaluation import CONTINUATION_LEN, NUM_PROMPTS, PROMPT_LEN

TEMPLATE = """\
---
license: other
license_name: psf-2.0
library_name: transformers
---
# A small trained Qwen3-MoE

{millions:.2f} M parameters, {num_hidden_layers} layers, {num_experts} experts of which
{num_experts_per_tok} per token, `Qwen3MoeForCausalLM`, bf16, untied. It exists to compare serving engines:
its logits are peaked, so that a wrong expert choice or a wrong kernel shows in its output. It
knows fragments of Python's standard library and nothing else.

Made by (needs `scripts/train.requirements.txt`):

    {command}

Text: source files, docstrings and language topics of CPython {python}'s standard library. Held out
whole: {held}.
`heldout.json` holds rows of token ids cut from those.

Licence: the training text is under the Python Software Foundation License Version 2, (c) Python Software
Foundation, all rights reserved. Weights, tokenizer and `heldout.json` can reproduce parts of it, so they are
passed on under that licence too ({licence}). Change made: the text was tokenized and learnt from.

The same command with the same versions, CPU model and one thread gives the same weights, unless
--max-seconds was used; elsewhere rounding differs.

## Facts

Losses are nats per token. Greedy figures are over {num_prompts} prompts of {prompt_len} tokens and
{continuation_len} new ones each, not stopping at EOS. Expert loads are on the held-out rows,
one figure per layer.

| fact | value |
|---|---|
{facts}

## Files (SHA-256)

| file | digest |
|---|---|
{digests}

## Greedy samples from held-out prompts

{samples}
"""


def indent(text: str) -> str:
    """A Markdown code block, whatever the text holds."""
    return "\n".join("    " + line for line in text.splitlines())


def table(values: dict[str, Any]) -> str:
    return "\n".join(f"| {key} | `{json.dumps(value)}` |" for key, value in values.items())


def card(facts: dict[str, Any], shape: dict[str, int | float]) -> str:
    """README.md from the facts of train.json and the preset's shape."""
    told_elsewhere = ("samples", "sha256", "heldout_modules", "command")
    has_licence = "LICENSE-PYTHON.txt" in facts["sha256"]
    return TEMPLATE.format(
        **shape,
        millions=facts["parameters"] / 1e6,
        command=facts["command"],
        python=facts["python"],
        held=", ".join(f"`{name}`" for name in facts["heldout_modules"]),
        licence="`LICENSE-PYTHON.txt`" if has_licence else "its text comes with every Python source release",
        num_prompts=NUM_PROMPTS,
        prompt_len=PROMPT_LEN,
        continuation_len=CONTINUATION_LEN,
        facts=table({key: value for key, value in facts.items() if key not in told_elsewhere}),
        digests=table(facts["sha256"]).replace('"', ""),
        samples="\n\n".join(
            f"Prompt:\n\n{indent(prompt)}\n\nContinuation:\n\n{indent(text)}"
            for prompt, text in facts["samples"]
        ),
    )
