"""A causal language model in full precision, its tokenizer and what it says next.

Runs inside the engine's own environment (torch, transformers); the harness never imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines.transformers_reading import logits, pieces
from engines.transformers_sampling import Before, Choice, before, processed


class Top(NamedTuple):
    """The view of one position: the token, its logprob (nats) and rank, and the best (id, logprob) pairs."""

    token_id: int
    logprob: float
    rank: int
    best: tuple[tuple[int, float], ...]


class Oracle:
    """The model and its tokenizer."""

    def __init__(self, path: str, dtype: str, device: str) -> None:
        if device == "cpu" and dtype == "float32":
            # oneDNN builds a kernel for every new shape, and an expert's number of tokens is new each time.
            torch.backends.mkldnn.enabled = False
        self.path = path
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        # On GPUs the grouped expert kernel is bf16 only; the plain loop over experts takes any dtype.
        experts = {"experts_implementation": "eager"} if device != "cpu" else {}
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="sdpa", **experts
        )
        self.model.eval().to(device)
        self.device = device
        config = self.model.config
        self.vocab_size = int(config.vocab_size)
        self.max_model_len = int(getattr(config, "max_position_embeddings", 0) or 0)
        eos = self.model.generation_config.eos_token_id
        self.eos = frozenset(eos if isinstance(eos, list) else [eos])
        self.routes = _Routes(self.model)
        self._texts: dict[int, str] = {}

    @torch.inference_mode()
    def generate(
        self, ids: Sequence[int], choice: Choice, seed: int | None, banned_until: int, num_best: int
    ) -> Iterator[Top]:
        """Tokens after `ids`, for ever; EOS is not chosen before token number `banned_until`.

        A temperature of 0 is greedy; `seed` None draws anew each time.
        """
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        said, new, past = list(ids), list(ids), None
        while True:
            for states, reached in pieces(self.model, new, past):
                last, past = states[-1:], reached
            row = logits(self.model, last)
            number = len(said) - len(ids)
            asked = msgspec.structs.replace(choice, no_end=choice.no_end or number < banned_until)
            here = range(len(said), len(said) + 1)
            earlier = before(said, len(ids), here, row.shape[-1]) if choice.penalises else None
            token = self._chosen(row, asked, earlier, generator)
            target = torch.tensor([token], device=self.device)
            yield tops(torch.log_softmax(row, -1), target, num_best)[0]
            new = [token]
            said.append(token)

    def text(self, token_id: int) -> str:
        """What one token reads as alone; kept, because a prompt's logprobs name thousands."""
        if token_id not in self._texts:
            self._texts[token_id] = self.tokenizer.decode([token_id])
        return self._texts[token_id]

    def _chosen(
        self, row: torch.Tensor, choice: Choice, earlier: Before | None, generator: torch.Generator
    ) -> int:
        greedy = choice.temperature == 0
        asked = msgspec.structs.replace(choice, temperature=1.0) if greedy else choice
        left = processed(row, asked, earlier, sorted(self.eos))[0]
        return int(left.argmax() if greedy else torch.multinomial(left.exp().cpu(), 1, generator=generator))


def tops(logprobs: torch.Tensor, targets: torch.Tensor, num_best: int) -> list[Top]:
    """One Top per row of logprobs [positions, vocabulary]."""
    own = logprobs.gather(1, targets[:, None])
    ranks = (logprobs > own).sum(1) + 1
    values, indices = logprobs.topk(max(num_best, 1), dim=1)
    return [
        Top(token, logprob, rank, tuple(zip(best_ids, best, strict=True)))
        for token, logprob, rank, best_ids, best in zip(
            targets.tolist(),
            own[:, 0].tolist(),
            ranks.tolist(),
            indices.tolist(),
            values.tolist(),
            strict=True,
        )
    ]


class _Routes:
    """Collects the expert ids that each MoE layer's router chose, while `on`."""

    def __init__(self, model: Any) -> None:
        self.on = False
        self._chosen: list[torch.Tensor] = []
        routers = [m for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
        self._num_layers = len(routers)
        for router in routers:
            router.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        if self.on:
            self._chosen.append(output[-1].detach().cpu())

    def take(self) -> list[list[list[int]]]:
        """Expert ids of the passes since the last call as [tokens][layers][top_k], forgotten afterwards."""
        chosen, self._chosen = self._chosen, []
        passes = [chosen[i : i + self._num_layers] for i in range(0, len(chosen), self._num_layers or 1)]
        found: list[list[list[int]]] = [row for layers in passes for row in torch.stack(layers, 1).tolist()]
        return found
