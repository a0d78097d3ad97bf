"""Words of the command line for moe."""

from __future__ import annotations

from collections.abc import Sequence

from harness import models
from harness.moe import command, convert
from harness.recipe import Words


def moe(words: Sequence[str]) -> str:
    """moe FILE... [against=FILE] [out=FOLDER] [ep=8,16] [model=ALIAS]. Raises InputError.

    .pt files are SGLang's recorder's; .jsonl files may hold responses with routed experts, of that model.
    """
    given = Words(words)
    against, out, sizes = given.take("against"), given.take("out"), given.take("ep")
    alias = given.take("model")
    given.nothing_left("moe", "against, out, ep, model")
    moe = models.resolve(alias).moe if alias else None
    files = [convert.if_foreign(name, moe) for name in given.plain]
    return command.run(files, [convert.if_foreign(against, moe)] if against else (), out, sizes)
