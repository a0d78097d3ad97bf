"""The verbs about machines, kernels, logs of routing and endpoints: no bench begins here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import InputError
from harness.terminal import Words, say

app = typer.Typer()


@app.command()
def clean(
    words: Words = None,
    environments: Annotated[bool, typer.Option("--environments", help="What each weighs.")] = False,
) -> None:
    """Remove what crashed harnesses left; clean --environments [NAME ...]: weigh them, remove those named"""
    from harness.host import clean as cleaning
    from harness.host import environment_sizes
    from harness.registry import ROOT

    if words and not environments:
        raise InputError(f"clean takes no {words[0]!r}; `just clean --environments NAME` removes one.")
    if words:
        environment_sizes.remove(words, ROOT, say)
    elif environments:
        for line in environment_sizes.lines(environment_sizes.weigh(ROOT)):
            say(line)
    else:
        cleaning.run(lambda line: print(line, flush=True))


@app.command()
def doctor(words: Words = None) -> None:
    """What this machine has, lacks and can run; doctor [VARIANT] nodes=N: do a cluster's go together?"""
    from harness.host import doctor as diagnosis
    from harness.ranks import doctor as of_nodes

    if words:
        lines = of_nodes.checks(words)
        Console().print(diagnosis.table("These nodes", lines))
        sys.exit(any(line.state == "missing" for line in lines))
    diagnosis.run(Console())


@app.command("ep-check")
def ep_check(words: Words = None) -> None:
    """Check and time expert-parallel dispatch/combine: ep-check backend=NAME [ranks=N] [key=value ...]"""
    from harness.ep import verbs

    text, status = verbs.ep_check(words or [])
    print(text)
    sys.exit(status)


@app.command()
def image(words: Words = None) -> None:
    """Build an image of docker/: image NAME [KEY=VALUE ...]; without a name, list them"""
    from harness.host import images

    if words:
        images.run(words[0], words[1:], lambda line: print(line, flush=True))
    else:
        print("\n".join(images.names()))


@app.command("kernel-bench")
def kernel_bench(words: Words = None) -> None:
    """MORI's benches and benchmark_moe.py, run where they lie: kernel-bench NAME variant=NAME [key=value]"""
    from harness.ep import verbs
    from harness.host.machine import probe

    text, status = verbs.kernel_bench(words or [], probe())
    print(text)
    sys.exit(status)


@app.command()
def moe(words: Words = None) -> None:
    """What a routing log (of bench ... moe_log=LAYER) tells: moe FILE ... [against=FILE] [out=FOLDER]"""
    from harness.moe import verbs

    print(verbs.moe(words or []))


@app.command()
def selfcheck(words: Words = None) -> None:
    """The client's own error against a server of known timing: selfcheck [rate=] [concurrency=] [workers=]"""
    from harness.client import selfcheck as checking

    for budget in checking.from_words(words or []):
        say(budget.words)


@app.command()
def probe(
    url: str, model: Annotated[str, typer.Argument()] = "", harsh: bool = False, api_key_env: str = ""
) -> None:
    """Which promises an endpoint keeps, how stable its output is: probe http://host:port [model] [--harsh]"""
    from harness.correctness import probe as probing

    found = probing.run(url, model, harsh=harsh, api_key_env=api_key_env)
    for line in probing.lines(found):
        say(line)
    sys.exit(0 if all(p.held for p in found.points) and all(k.held is not False for k in found.known) else 3)


@app.command()
def trace(words: Words = None) -> None:
    """First wrong step of a VLLM_MORI_TRACE log; MORI-VIZ and torch traces in shares of time: trace FILE"""
    from harness.ep import verbs

    text, status = verbs.trace_files(words or [])
    print(text)
    sys.exit(status)


@app.command()
def vendor(words: Words = None) -> None:
    """Recipes that engines' own projects publish, as variants: vendor FOLDER [model= hardware= base=NAME]"""
    from harness.tune.vendor import verb

    for line in verb.vendor(words or []):
        say(line)


@app.command()
def version() -> None:
    """The harness's commit"""
    from harness.host.environment import git

    Console().print(git("rev-parse", "--short", "HEAD") or "unknown")
