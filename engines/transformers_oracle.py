"""A causal language model in full precision, one sequence at a time: exact logprobs for given token ids.

Runs inside the engine's own environment (torch, transformers); the harness never imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_SCORES_AT_ONCE = 2**26
"""Positions read at once times length of the prompt: in fp32 attention keeps that many scores per head, and
30,000 tokens read whole asked for 134 GB. Every piece visits every expert, so small ones cost time."""


class Top(NamedTuple):
    """The view of one position: the token, its logprob (nats) and rank, and the best (id, logprob) pairs."""

    token_id: int
    logprob: float
    rank: int
    best: tuple[tuple[int, float], ...]


class Sampling(NamedTuple):
    """How the next token is chosen. temperature 0 = greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Oracle:
    """The model and its tokenizer."""

    def __init__(self, path: str, dtype: str, device: str) -> None:
        if device == "cpu" and dtype == "float32":
            # oneDNN builds a kernel for every new shape, and an expert's number of tokens is new each time.
            torch.backends.mkldnn.enabled = False
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
        self._scored: tuple[list[int], Any] = ([], None)

    @torch.inference_mode()
    def score(self, ids: Sequence[int], num_best: int, first: int = 1) -> list[Top]:
        """The view of positions first .. len(ids)-1, each given the true ids before it; `first` >= 1.

        What stands before them is not read again where it began the last ids, as a prompt that several
        outputs followed does.
        """
        found: list[Top] = []
        num_read, past = self._known(ids[: first - 1])
        for hidden, reached in self._read(ids[num_read:-1], past):
            asked = hidden[max(first - 1 - num_read, 0) :]
            num_read += len(hidden)
            past = reached
            targets = torch.tensor(ids[num_read + 1 - len(asked) : num_read + 1], device=self.device)
            found += _tops(self._logprobs(asked), targets, num_best) if len(asked) else []
        self._scored = (list(ids), past)
        return found

    def _known(self, ids: Sequence[int]) -> tuple[int, Any]:
        """(how many of `ids` the last score() has read, its cache cut to them); the cache is taken."""
        (scored, past), self._scored = self._scored, ([], None)
        num = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, scored[:-1], strict=False)))
        if past is None or not num:
            return 0, None
        if past.get_seq_length() > num:
            if not all(type(layer).__name__ == "DynamicLayer" for layer in past.layers):
                return 0, None  # a window or a running state cannot be cut back
            past.crop(num)
        return num, past

    @torch.inference_mode()
    def generate(
        self, ids: Sequence[int], sampling: Sampling, banned_until: int, num_best: int
    ) -> Iterator[Top]:
        """Tokens after `ids`, for ever; EOS is not chosen before token number `banned_until`.

        Behind score() of the same ids, what that has read is not read again.
        """
        generator = torch.Generator().manual_seed(sampling.seed)
        whole, past = list(ids), None
        if self._scored[0] == whole and not self.routes.on:  # routes are of every position
            num_read, past = self._known(whole[:-1])
            self._scored, ids = (whole, past), whole[num_read:]
        else:
            self._scored = ([], None)
        number = 0
        while True:
            for hidden, reached in self._read(ids, past):
                last, past = hidden[-1:], reached
            logprobs = self._logprobs(last)[0]
            token = self._choose(logprobs, sampling, generator, number < banned_until)
            yield _tops(logprobs[None], torch.tensor([token], device=self.device), num_best)[0]
            ids = [token]
            number += 1

    def _read(self, ids: Sequence[int], past: Any = None) -> Iterator[tuple[torch.Tensor, Any]]:
        """(hidden states [positions, width], cache so far) of `ids` behind `past`, piece by piece."""
        length = len(ids) + (past.get_seq_length() if past is not None else 0)
        size = max(_SCORES_AT_ONCE // max(length, 1), 1)
        for first in range(0, len(ids), size):
            batch = self._batch(ids[first : first + size])
            out = self.model.model(input_ids=batch, past_key_values=past, use_cache=True)
            past = out.past_key_values
            yield out.last_hidden_state[0], past

    def text(self, token_id: int) -> str:
        """What one token reads as alone; kept, because a prompt's logprobs name thousands."""
        if token_id not in self._texts:
            self._texts[token_id] = self.tokenizer.decode([token_id])
        return self._texts[token_id]

    def _batch(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.device)

    def _logprobs(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.model.lm_head(hidden)
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)

    def _choose(
        self, logprobs: torch.Tensor, sampling: Sampling, generator: torch.Generator, ban_eos: bool
    ) -> int:
        allowed = logprobs.clone()
        if ban_eos:
            allowed[list(self.eos)] = float("-inf")
        if sampling.temperature == 0:
            return int(allowed.argmax())
        probabilities = torch.softmax(allowed.double() / sampling.temperature, -1).cpu()
        ordered, indices = probabilities.sort(descending=True)
        ordered[(ordered.cumsum(0) - ordered) >= sampling.top_p] = 0
        return int(indices[torch.multinomial(ordered, 1, generator=generator)])


def _tops(logprobs: torch.Tensor, targets: torch.Tensor, num_best: int) -> list[Top]:
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
