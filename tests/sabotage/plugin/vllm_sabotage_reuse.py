"""Test only: breaks what a running vLLM 0.32 reuses or accepts, the ways caches and drafts have been broken.

SABOTAGE_FILE names a file whose one word is the fault, read in every step: one engine life shows them all.

    stale       a block's key outlives its eviction: whoever asks for it gets what was written there since
    unkeyed     a block's key is its own tokens, without what stood before them (nor adapter or salt)
    unverified  every draft token is accepted, whatever the model says
    one-more    the first draft token that the model refused is accepted too: the count is off by one
    scales      keys and values in e4m3, and read back by a scale that is 10 % off
    rounded     the same with the right scale: not a fault where 8 bits are attested
    healthy     nothing
"""

from __future__ import annotations

import os
from pathlib import Path

WRONG_SCALE = 1.1


def fault() -> str:
    """The fault of this moment."""
    return Path(os.environ["SABOTAGE_FILE"]).read_text(encoding="utf-8").strip()


def install() -> None:
    """Wrap the places; each asks for the fault when it is called."""
    _patch_eviction()
    _patch_keys()
    _patch_acceptance()
    _patch_scales()


def _patch_eviction() -> None:
    from vllm.v1.core.block_pool import BlockPool

    remove = BlockPool._remove_cached_block_hashes

    def forgetful(self, block):
        if fault() != "stale":
            return remove(self, block)
        self.cached_block_hashes_by_block.pop(block.block_id, None)
        block.reset_hash()
        return []

    BlockPool._remove_cached_block_hashes = forgetful


def _patch_keys() -> None:
    from vllm.v1.core import kv_cache_utils

    hashed = kv_cache_utils.hash_block_tokens

    def own_tokens_only(hash_function, parent_block_hash, tokens, extra_keys=None):
        if fault() == "unkeyed":
            parent_block_hash, extra_keys = None, None
        return hashed(hash_function, parent_block_hash, tokens, extra_keys)

    kv_cache_utils.hash_block_tokens = own_tokens_only


def _patch_acceptance() -> None:
    from vllm.v1.sample import rejection_sampler

    sample = rejection_sampler.rejection_sample

    def lenient(draft_token_ids, num_draft_tokens, *rest, **named):
        out = sample(draft_token_ids, num_draft_tokens, *rest, **named)
        now, bonus = fault(), rest[4]
        if now not in ("unverified", "one-more"):
            return out
        first = 0
        for row, num in enumerate(num_draft_tokens):
            drafts = draft_token_ids[first : first + num].to(out.dtype)
            first += num
            if not num:
                continue
            if now == "unverified":
                out[row, :num] = drafts
                out[row, num] = bonus[row, 0]
                continue
            refused = (out[row, :num] != drafts).nonzero()
            if len(refused):
                place = int(refused[0])
                out[row, place] = drafts[place]
        return out

    rejection_sampler.rejection_sample = lenient


def _patch_scales() -> None:
    import torch
    from vllm.model_executor.layers.attention.attention import Attention

    forward = Attention.forward

    def rounded(self, query, key, value, *args, **kwargs):
        now = fault()
        if now in ("scales", "rounded"):
            scale = WRONG_SCALE if now == "scales" else 1.0
            key, value = (t.to(torch.float8_e4m3fn).to(t.dtype) * scale for t in (key, value))
        return forward(self, query, key, value, *args, **kwargs)

    Attention.forward = rounded
