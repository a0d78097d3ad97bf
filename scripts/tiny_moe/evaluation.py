"""Load what was saved, as a user would, and measure it."""

import itertools
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT_LEN, CONTINUATION_LEN, NUM_PROMPTS, NUM_SAMPLES = 32, 64, 32, 5


@torch.no_grad()
def mean_loss(model: Any, rows: torch.Tensor) -> float:
    """Nats per token over int64 rows of shape (rows, row_len)."""
    losses = [
        cross_entropy(model(input_ids=row[None, :-1], use_cache=False).logits[0].float(), row[1:]).item()
        for row in rows.to(model.device)
    ]
    return round(sum(losses) / len(losses), 4)


@torch.no_grad()
def expert_loads(model: Any, rows: torch.Tensor) -> list[float]:
    """Busiest expert's load over the mean, per layer; 1.0 is perfect balance."""
    top_k, num_experts = model.config.num_experts_per_tok, model.config.num_experts
    counts = torch.zeros(model.config.num_hidden_layers, num_experts, dtype=torch.int64)
    for row in rows.to(model.device):
        output = model(input_ids=row[None], output_router_logits=True, use_cache=False)
        for layer, logits in enumerate(output.router_logits):
            chosen = logits.topk(top_k, -1).indices.flatten()
            counts[layer] += torch.bincount(chosen, minlength=num_experts).cpu()
    return [round((layer.max() / layer.float().mean()).item(), 3) for layer in counts]


@torch.no_grad()
def continue_greedily(model: Any, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, their probabilities), both (prompts, CONTINUATION_LEN); EOS is kept and does not stop."""
    tokens, probabilities, cache = [], [], None
    ids = prompts.to(model.device)
    for _ in range(CONTINUATION_LEN):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        probability, chosen = output.logits[:, -1].float().softmax(-1).max(-1)
        cache, ids = output.past_key_values, chosen[:, None]
        tokens.append(chosen)
        probabilities.append(probability)
    return torch.stack(tokens, 1).cpu(), torch.stack(probabilities, 1).cpu()


def longest_run(row: list[int]) -> int:
    """The most times that one token follows itself."""
    return max(len(list(same)) for _, same in itertools.groupby(row))


def spread_prompts(rows: torch.Tensor) -> torch.Tensor:
    """NUM_PROMPTS prompts, evenly over the rows: (NUM_PROMPTS, PROMPT_LEN)."""
    return rows[torch.linspace(0, len(rows) - 1, NUM_PROMPTS).long(), :PROMPT_LEN]


def measure(model: Any, rows: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(facts, greedy tokens by name of the rows) of one loaded model."""
    facts: dict[str, Any] = {
        "heldout_loss": mean_loss(model, rows["heldout"]),
        "expert_load_max_over_mean": expert_loads(model, rows["heldout"]),
    }
    greedy = {}
    for name, some in rows.items():
        tokens, probabilities = continue_greedily(model, spread_prompts(some))
        greedy[name] = tokens
        facts[f"greedy_from_{name}"] = {
            "mean_chosen_probability": round(probabilities.mean().item(), 4),
            "distinct_tokens": tokens.unique().numel(),
            "longest_run_of_one_token": max(longest_run(row) for row in tokens.tolist()),
        }
    return facts, greedy


def evaluate(out: Path, rows: dict[str, torch.Tensor], device: str) -> dict[str, Any]:
    """Facts by dtype and greedy samples; rows maps "train" and "heldout" to (rows, row_len) ids."""
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    facts: dict[str, Any] = {}
    greedy: list[dict[str, torch.Tensor]] = []
    # fp32 is left out on a GPU: its grouped_mm takes bf16 only.
    for dtype in [torch.bfloat16] if device.startswith("cuda") else [torch.float32, torch.bfloat16]:
        model = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, local_files_only=True)
        measured, tokens = measure(model.to(device).eval(), rows)
        facts |= {f"{key}_{str(dtype).removeprefix('torch.')}": value for key, value in measured.items()}
        greedy.append(tokens)
    for name in rows if len(greedy) == 2 else ():
        same = (greedy[0][name] == greedy[1][name]).all(-1).sum()
        facts[f"greedy_from_{name}_equal_in_both_dtypes"] = f"{same} of {NUM_PROMPTS}"
    every = NUM_PROMPTS // NUM_SAMPLES
    shown = zip(spread_prompts(rows["heldout"])[::every], greedy[0]["heldout"][::every], strict=True)
    samples = [[tokenizer.decode(prompt), tokenizer.decode(tokens)] for prompt, tokens in shown]
    return facts | {"samples": samples[:NUM_SAMPLES]}
