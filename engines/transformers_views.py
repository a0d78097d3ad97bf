"""What the oracle thinks of given tokens, what an engine's rounding would, and what named faults would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from engines.transformers_oracle import Oracle, Top, tops
from engines.transformers_played import FLATTER, FLATTER_NAME, Parts, Precision
from engines.transformers_reading import Given, Reader, hidden, logits, own_logits
from engines.transformers_sampling import Drawn, Rows, before, measured

_ROWS = 256
"""Positions whose whole distributions are at hand at once."""
_ENTRIES = 2**23
"""Positions x vocabulary of a distribution in double precision, several of which are held at once."""


class Asked(NamedTuple):
    """Positions `first` .. len(ids) - 1 of `ids`; `precision`: with its rounding, `faults`: and theirs."""

    ids: list[int]
    first: int = 1
    num_best: int = 0
    precision: Precision | None = None
    faults: bool = False
    drawn: Drawn | None = None
    """How the tokens behind `first` were to be drawn, where they were sampled."""


class View(NamedTuple):
    """One entry per position asked for; lists that nobody asked for, or memory did not allow, are empty."""

    tops: list[Top]
    twin_logprob: list[float]
    """Logprob of the given token in the engine's precision."""
    twin_margin: list[float]
    """By the oracle: best logprob - that of the token which the engine's precision prefers."""
    played: dict[str, list[float]]
    """Fault -> logprob of the given token with it - without it."""
    drawn: dict[str, list[float]]
    """What the distribution says that they were to be drawn from: column -> value per position."""
    drawn_faults: dict[str, list[float]]
    """Fault of a sampler -> its sums over all positions."""


class Viewer:
    """Reads many questions at once; remembers what did not fit this device."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._parts = Parts(oracle.model, oracle.path)
        self._too_large: set[str] = set()

    @torch.inference_mode()
    def views(self, questions: Sequence[Asked]) -> list[View]:
        """One View per question, in order; what is alike in several is read once."""
        given = [Given(q.ids, q.first) for q in questions]
        states = hidden(Reader(self._oracle.model), given)
        twins: dict[int, tuple[Reader, torch.Tensor]] = {}
        faulty: dict[int, dict[str, tuple[Reader, torch.Tensor]]] = {n: {} for n in range(len(given))}
        for precision in {q.precision for q in questions if q.precision}:
            alike = [n for n, q in enumerate(questions) if q.precision == precision]
            twin = self._made(f"twin {precision.dtype}", lambda p=precision: {"": self._parts.twin(p)})
            twins |= {n: pair for n, pair in self._read(twin.get(""), given, alike).items()}
            alike = [n for n in alike if questions[n].faults]
            faults = self._made("int8 weights", lambda p=precision: self._parts.faults(p)) if alike else {}
            for name, reader in faults.items():
                for number, pair in self._read(reader, given, alike).items():
                    faulty[number][name] = pair
        return [
            self._view(q, rows, twins.get(n), faulty[n])
            for n, (q, rows) in enumerate(zip(questions, states, strict=True))
        ]

    def _made(self, name: str, make: Any) -> dict[str, Reader]:
        """Readers, or {} once they did not fit the memory."""
        if name in self._too_large:
            return {}
        try:
            made: dict[str, Reader] = make()
            return made
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._too_large.add(name)
            print(f"{name}: does not fit this device's memory and is left out", flush=True)
            return {}

    def _read(
        self, reader: Reader | None, given: Sequence[Given], numbers: Sequence[int]
    ) -> dict[int, tuple[Reader, torch.Tensor]]:
        if reader is None or not numbers:
            return {}
        states = hidden(reader, [given[n] for n in numbers])
        return {n: (reader, rows) for n, rows in zip(numbers, states, strict=True)}

    def _view(
        self,
        question: Asked,
        states: torch.Tensor,
        twin: tuple[Reader, torch.Tensor] | None,
        faulty: dict[str, tuple[Reader, torch.Tensor]],
    ) -> View:
        targets = torch.tensor(question.ids[question.first :], device=states.device)
        view = View([], [], [], {name: [] for name in faulty}, {}, {})
        if question.faults:
            view.played[FLATTER_NAME] = []
        size = max(min(_ROWS, _ENTRIES // self._oracle.vocab_size), 1) if question.drawn else _ROWS
        for first in range(0, len(targets), size):
            part = slice(first, first + size)
            plain = logits(self._oracle.model, states[part])
            own = torch.log_softmax(plain, -1)
            wanted = targets[part, None]
            theirs = own.gather(1, wanted)
            view.tops.extend(tops(own, targets[part], question.num_best))
            if question.faults:
                flatter = torch.log_softmax(own * FLATTER, -1).gather(1, wanted)
                view.played[FLATTER_NAME].extend((flatter - theirs)[:, 0].tolist())
            theirs_too = own_logits(twin[0], twin[1][part]) if twin else None
            if question.drawn:
                self._drawn(view, question, first, Rows(plain, theirs_too, targets[part], None, ()))
            if theirs_too is not None:
                other = torch.log_softmax(theirs_too, -1)
                preferred = own.gather(1, other.argmax(-1, keepdim=True))
                view.twin_logprob.extend(other.gather(1, wanted)[:, 0].tolist())
                view.twin_margin.extend((own.amax(-1, keepdim=True) - preferred)[:, 0].tolist())
            for name, (reader, rows) in faulty.items():
                other = torch.log_softmax(own_logits(reader, rows[part]), -1).gather(1, wanted)
                view.played[name].extend((other - theirs)[:, 0].tolist())
        return view

    def _drawn(self, view: View, question: Asked, first: int, rows: Rows) -> None:
        """What some positions, `first` of the output on, say of how they were drawn; added to the view."""
        assert question.drawn is not None
        here = range(question.first + first, question.first + first + len(rows.targets))
        size = rows.logits.shape[-1]
        counted = (
            before(question.ids, question.first, here, size) if question.drawn.choice.penalises else None
        )
        rows = rows._replace(earlier=counted, ends=sorted(self._oracle.eos))
        columns, faults = measured(rows, question.drawn, first)
        for name, values in columns.items():
            view.drawn.setdefault(name, []).extend(values)
        for name, sums in faults.items():
            so_far = view.drawn_faults.get(name, [0.0] * len(sums))
            view.drawn_faults[name] = [a + b for a, b in zip(so_far, sums, strict=True)]
