"""Words of the command line for moe, ep-check and trace."""

from __future__ import annotations

from collections.abc import Sequence

from harness import models
from harness.errors import InputError
from harness.moe import command, convert, ep_command, perfetto, trace
from harness.recipe import Words


def moe(words: Sequence[str]) -> str:
    """moe FILE... [against=FILE] [out=FOLDER] [ep=8,16] [model=ALIAS]. Raises InputError.

    .pt files are SGLang's recorder's; .jsonl files may hold responses with routed experts, of that model.
    """
    given = Words(words)
    against, out, sizes = given.take("against"), given.take("out"), given.take("ep")
    alias = given.take("model")
    _nothing_left(given, "moe", "against, out, ep, model")
    moe = models.with_config(models.resolve(alias)).moe if alias else None
    files = [convert.if_foreign(name, moe) for name in given.plain]
    return command.run(files, [convert.if_foreign(against, moe)] if against else (), out, sizes)


def ep_check(words: Sequence[str]) -> tuple[str, int]:
    """ep-check backend=NAME [ranks=N] [key=value ...], or ep-check FILE... to read benches' output."""
    given = Words(words)
    if given.plain:
        _nothing_left(given, "ep-check FILE", "none")
        return "\n".join(ep_command.table(name) for name in given.plain), 0
    return ep_command.run(given.pairs)


def trace_file(words: Sequence[str]) -> str:
    """trace FILE [ranks=8] [experts=256] [top_k=8]; a .json or .json.gz file is a Perfetto trace."""
    given = Words(words)
    defaults = {"ranks": "8", "experts": "256", "top_k": "8"}
    setting = [ep_command.number(given.take(name, value), name) for name, value in defaults.items()]
    _nothing_left(given, "trace", "ranks, experts, top_k")
    if len(given.plain) != 1:
        raise InputError("trace needs one file: trace FILE [ranks=8] [experts=256] [top_k=8]")
    name = given.plain[0]
    if name.endswith((".json", ".json.gz")):
        return perfetto.run(name)
    return trace.run(name, *setting)


def _nothing_left(given: Words, verb: str, known: str) -> None:
    if given.pairs:
        raise InputError(f"{verb} has no setting {next(iter(given.pairs))!r}: it knows {known}.")
