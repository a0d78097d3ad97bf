"""`tune`: search, shortlist, proof; then what mattered, and the winners as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import claim, compare, plan, store
from harness import recipe as recipes
from harness.errors import InputError
from harness.host import environment
from harness.host.machine import probe
from harness.label import point
from harness.progress import Progress
from harness.reporting import publish
from harness.schema import Comparison
from harness.tune import campaign, found_file, stages, telling
from harness.tune.campaign import Campaign
from harness.tune.telling import Account, Runs

FILE = "campaign.json"
TOLD = "campaign.told.json"


def tune(given: Sequence[str]) -> tuple[Comparison, Account, list[Path]]:
    """Everything `tune` does; run_id= alone goes on with a campaign. Raises InputError, HarnessError."""
    asked, run = _asked(given)
    machine = probe()
    with Progress() as progress, claim.alone(run, progress.note):
        store.write(run / FILE, asked)
        for base in asked.bases:
            plan.refuse(plan.plan(campaign.stage(asked, "search", [point.default(base)]), machine))
        search = stages.searched(asked, machine, run, progress)
        shortlist_run, proof_run = (run.with_name(f"{run.name}-{stage}") for stage in campaign.STAGES[1:])
        shortlist = stages.shortlisted(asked, machine, shortlist_run, progress, search)
        chosen = [n for base in asked.bases for n in stages.candidates(asked, base, shortlist, 2)]
        proof = stages.proven(asked, machine, proof_run, progress, chosen)
        told = account_of(asked, run)
        for each in (run, shortlist_run, proof_run):
            store.write(each / TOLD, told)
        publish.pages(proof_run, proof)
    when = environment.now()
    files = [
        found_file.kept(found_file.tuned(asked, found, proof_run, when), "tuned") for found in told.found
    ]
    return proof, told, files


def account_of(asked: Campaign, run: Path) -> Account:
    """What the three runs of a campaign say, from their records."""
    folders = [run, *(run.with_name(f"{run.name}-{stage}") for stage in campaign.STAGES[1:])]
    runs = {
        base: Runs(*(compare.compare(folder, point.default(base)) for folder in folders))
        for base in asked.bases
    }
    spent = {base: sum(sum(stages.lives_s(f, base)) for f in folders[:2]) for base in asked.bases}
    return telling.account(asked, runs, spent)


def _asked(given: Sequence[str]) -> tuple[Campaign, Path]:
    """The campaign and its folder. Raises InputError for a resumed one whose words would be ignored."""
    words = recipes.Words(given)
    run_id = words.take("run_id")
    run = store.run_folder(run_id) if run_id else None
    if run and (run / FILE).exists():
        if words.plain or words.pairs:
            raise InputError(f"{run_id} says what it tunes; give run_id= alone to go on with it.")
        return store.read(run / FILE, Campaign), run
    rest = [*words.plain, *(f"{key}={value}" for key, value in words.pairs.items())]
    asked = campaign.from_words(rest)
    return asked, run or store.run_folder(store.new_run_id("tune-" + "-".join(asked.bases)))
