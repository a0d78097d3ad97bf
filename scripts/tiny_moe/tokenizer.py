"""A byte-level BPE tokenizer with a ChatML template, and the corpus as token ids."""

import itertools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tiny_moe.corpus import END_OF_TURN, EOS, TURN, Module

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(modules: list[Module], vocab_size: int, context_len: int) -> PreTrainedTokenizerFast:
    """Ids 0, 1 and 2 are EOS and the two turn marks; fewer than vocab_size entries if text is short."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (document for module in modules for document in module.documents),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOS, TURN, END_OF_TURN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, pad_token=EOS, model_max_length=context_len
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def token_stream(modules: list[Module], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """All documents in order, EOS after each: int32, shape (tokens,)."""
    documents = [document for module in modules for document in module.documents]
    encodings = tokenizer.backend_tokenizer.encode_batch(documents)
    ids = itertools.chain.from_iterable((*encoding.ids, tokenizer.eos_token_id) for encoding in encodings)
    return torch.tensor(list(ids), dtype=torch.int32)


def cut_rows(stream: torch.Tensor, row_len: int, most: int) -> torch.Tensor:
    """The stream's first rows, end to end: int64, shape (rows <= most, row_len)."""
    num_rows = min(most, len(stream) // row_len)
    return stream[: num_rows * row_len].view(num_rows, row_len).long()
