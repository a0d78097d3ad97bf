"""The model's vocabulary, read from its tokenizer.json: size, special ids, encode and decode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"


class Vocabulary:
    """One model's tokens; nothing is read before the first use."""

    def __init__(self, model_path: str | Path) -> None:
        self._path = Path(model_path) / TOKENIZER_FILE

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        if not self._path.is_file():
            raise ModelError(
                f"{self._path.parent} holds no {TOKENIZER_FILE}, so no prompt can be built: "
                "point the model alias at a complete checkpoint folder"
            )
        try:
            return Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(
                f"{self._path} cannot be read as a tokenizer ({error}): fetch the file again"
            ) from error

    @cached_property
    def size(self) -> int:
        """Number of token ids, added ones included (ids run 0 .. size-1 in every tokenizer met)."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are not plain text: every added token (begin, end, pad, roles, tools ...)."""
        return frozenset(int(i) for i in self._tokenizer.get_added_tokens_decoder())

    @cached_property
    def plain_ids(self) -> tuple[int, ...]:
        """Every id that prompts may be drawn from, ascending."""
        known = set(self._tokenizer.get_vocab(with_added_tokens=False).values())
        return tuple(sorted(known - self.special_ids))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of the text alone, no special tokens added."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def ids_by_text(self) -> dict[str, int]:
        """What a token reads as alone, special ones included -> its id, where no other id reads the same."""
        texts = self._tokenizer.decode_batch([[i] for i in range(self.size)], skip_special_tokens=False)
        times = Counter(texts)
        return {text: i for i, text in enumerate(texts) if times[text] == 1}

    def count(self, text: str) -> int:
        """Number of tokens the text encodes to."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
