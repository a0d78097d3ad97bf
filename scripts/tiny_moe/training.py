"""Build a Qwen3-MoE and train it in place."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tiny_moe.preset import Preset

AUX_LOSS_COEF = 0.01
SKIPS_IN_A_ROW = 5

# (fp32 master, weight): the same tensor twice where the weight is fp32.
Pair = tuple[torch.Tensor, torch.Tensor]


class Diverged(Exception):
    """Gradients stayed non-finite."""


@dataclass(frozen=True)
class Budget:
    """How long to train. max_seconds ends the schedule early, which gives up exact repeatability."""

    steps: int
    seed: int
    max_seconds: float = math.inf


def build_model(preset: Preset, tokenizer: PreTrainedTokenizerFast, device: str) -> Qwen3MoeForCausalLM:
    """A randomly initialised model in training mode, its weights in preset.dtype."""
    config = Qwen3MoeConfig(
        vocab_size=preset.vocab_size,
        norm_topk_prob=True,  # the only form llama.cpp can express
        tie_word_embeddings=False,  # SGLang 0.5.23 ignores tying for this architecture
        router_aux_loss_coef=AUX_LOSS_COEF,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": preset.rope_theta},
        **preset.shape,
    )
    with torch.device(device):
        model = Qwen3MoeForCausalLM(config).train()
    # Parameters only: rotary frequencies rounded to bf16 would be wrong at long positions.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(preset.dtype)
    return model


def balance_loss(router_logits: tuple[torch.Tensor, ...], top_k: int) -> torch.Tensor:
    """Switch Transformer eq. 4 (arXiv:2101.03961), mean over layers; 1.0 is perfect balance.

    The library's own pools all layers, so that every single layer may be skewed.
    router_logits: one (tokens, experts) per layer.
    """
    losses = []
    for logits in router_logits:
        num_experts = logits.shape[-1]
        probability = logits.float().softmax(-1)
        chosen = probability.topk(top_k, dim=-1).indices.flatten()
        share = torch.bincount(chosen, minlength=num_experts) / chosen.numel()
        losses.append(num_experts * (share * probability.mean(0)).sum())
    return torch.stack(losses).mean()


def learning_rate(preset: Preset, step: int, progress: float) -> float:
    """Linear warm-up, then cosine down to 5 % of the peak; progress runs from 0 to 1."""
    warmup = min(1.0, (step + 1) / preset.warmup_steps)
    return preset.learning_rate * warmup * (0.05 + 0.475 * (1 + math.cos(math.pi * progress)))


def draw_rows(stream: torch.Tensor, preset: Preset, step: int, generator: torch.Generator) -> torch.Tensor:
    """This step's random rows of row_len + 1 ids: inputs and, one on, targets."""
    row_len = preset.row_lens[step % len(preset.row_lens)]
    starts = torch.randint(len(stream) - row_len, (preset.batch_len // row_len, 1), generator=generator)
    return stream[(starts + torch.arange(row_len + 1)).to(stream.device)].long()


def backpropagate(model: Qwen3MoeForCausalLM, rows: torch.Tensor) -> tuple[float, float]:
    """Leave gradients on the weights. Returns (cross entropy in nats per token, balance loss)."""
    output = model(input_ids=rows[:, :-1], output_router_logits=True, use_cache=False)
    loss = cross_entropy(output.logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    balance = balance_loss(output.router_logits, model.config.num_experts_per_tok)
    (loss + AUX_LOSS_COEF * balance).backward()
    return loss.item(), balance.item()


def apply_gradients(optimizer: torch.optim.Optimizer, pairs: list[Pair]) -> bool:
    """Step the fp32 masters and copy them to the weights; False, and no step, if a gradient is not finite."""
    for master, weight in pairs:
        if master is not weight:
            master.grad, weight.grad = weight.grad.float(), None
    norm = torch.nn.utils.clip_grad_norm_([master for master, _ in pairs], 1.0)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
        with torch.no_grad():
            for master, weight in pairs:
                if master is not weight:
                    weight.copy_(master)
    optimizer.zero_grad(set_to_none=True)
    return finite


def train(model: Qwen3MoeForCausalLM, stream: torch.Tensor, preset: Preset, budget: Budget) -> dict[str, Any]:
    """Train in place and return the facts; losses in nats per token. Raises Diverged."""
    # grouped_mm is outside autocast, so bf16 weights with fp32 masters stand in for autocast.
    pairs = [(w if w.dtype == torch.float32 else w.detach().float(), w) for w in model.parameters()]
    optimizer = torch.optim.AdamW([m for m, _ in pairs], betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(budget.seed)
    stream = stream.to(model.device)
    losses: list[float] = []
    skipped: list[int] = []
    started, cpu_started = time.monotonic(), time.process_time()
    for step in range(budget.steps):
        elapsed = time.monotonic() - started
        if elapsed > budget.max_seconds:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(preset, step, max(step / budget.steps, elapsed / budget.max_seconds))
        loss, balance = backpropagate(model, draw_rows(stream, preset, step, generator))
        losses.append(loss)
        if not apply_gradients(optimizer, pairs):
            skipped.append(step)
        if skipped[-SKIPS_IN_A_ROW:] == list(range(step - SKIPS_IN_A_ROW + 1, step + 1)):
            raise Diverged(f"the gradient was not finite in {SKIPS_IN_A_ROW} steps running, at step {step}")
        if step % 100 == 0 or step < 3:
            print(f"step {step} loss {loss:.3f} balance {balance:.3f} {elapsed:.0f} s", flush=True)
    return {
        "steps": len(losses),
        "tokens": len(losses) * preset.batch_len,
        "skipped_steps": len(skipped),
        "first_loss": round(losses[0], 4),
        "last_50_steps_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "train_wall_s": round(time.monotonic() - started, 1),
        "train_cpu_s": round(time.process_time() - cpu_started, 1),
    }
