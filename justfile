# The user's verbs. `just` alone lists them; each is also `python -m harness <verb>`.

set positional-arguments

python := ".venv/bin/python"

import? "engines/serve.just"

# List the verbs
_default:
    @just --list --unsorted

# Make the harness's own environment (every verb does it when needed)
setup:
    @sh scripts/setup.sh

# Serve in the foreground, Ctrl-C stops it: serve <variant> [model] [key=value ...]
[no-exit-message]
serve variant *model_and_keys: setup
    @{{ python }} -m harness serve "$@"

# Launch, measure and compare: bench <variant|all|a,b,c> [workload|all] [key=value ...]
[no-exit-message]
bench *words: setup
    @{{ python }} -m harness bench "$@"

# Measure a variant against itself under two blind names: aa <variant> [workload|all] [key=value ...]
[no-exit-message]
aa *words: setup
    @{{ python }} -m harness aa "$@"

# Find the best settings at equal budget, wrong answers out: tune <variant,...> [workload] budget_s=S
[no-exit-message]
tune *words: setup
    @sh scripts/setup.sh tune
    @{{ python }} -m harness tune "$@"

# Which release changed it: bisect <variant> good=VERSION bad=VERSION [metric=] [workload] [key=value]
[no-exit-message]
bisect *words: setup
    @{{ python }} -m harness bisect "$@"

# Recipes that engines' own projects publish, as variants: vendor FOLDER [model= hardware= base=NAME]
[no-exit-message]
vendor *words: setup
    @sh scripts/setup.sh tune
    @{{ python }} -m harness vendor "$@"

# Print what would be launched, touch nothing: plan <variant|all> [key=value ...] [--json|--check]
[no-exit-message]
plan *words: setup
    @{{ python }} -m harness plan "$@"

# The client alone against a running endpoint: load url=http://host:port [workload] [key=value ...]
[no-exit-message]
load *words: setup
    @{{ python }} -m harness load "$@"

# Recompute from stored records: compare [RUN ...]; other tools' files: compare FOLDER [baseline=X]
[no-exit-message]
compare *words: setup
    @{{ python }} -m harness compare "$@"

# Write report.md and report.html of a run again: report [RUN]
[no-exit-message]
report *words: setup
    @{{ python }} -m harness report "$@"

# Everything that a run rests on in one signed file, with what checks it: bundle [RUN] [key=FILE|none]
[no-exit-message]
bundle *words: setup
    @{{ python }} -m harness bundle "$@"

# The experiment log: log [show ID | note ID TEXT | sign ID WHY | check | TEXT | variant= ...]
[no-exit-message]
log *words: setup
    @{{ python }} -m harness log "$@"

# Series over the log, where they changed and what else did: history [variant=] [metric=] [model=] ...
[no-exit-message]
history *words: setup
    @sh scripts/setup.sh history
    @{{ python }} -m harness history "$@"

# The whole log as static pages that need no server and no network: site [out=FOLDER]
[no-exit-message]
site *words: setup
    @sh scripts/setup.sh history
    @{{ python }} -m harness site "$@"

# Run a log entry again from its own recipe, and say how far the result is from the old: replay ID
[no-exit-message]
replay entry: setup
    @{{ python }} -m harness replay "$@"

# Results of vLLM, SGLang, guidellm, aiperf, InferenceX in this harness's terms: import FILE ...
[no-exit-message]
import *files: setup
    @{{ python }} -m harness import "$@"

# Runs for other tools: export [RUN ...] [--format vllm-bench|csv|parquet] [--out FOLDER]
[no-exit-message]
export *words: setup
    @{{ python }} -m harness export "$@"

# What a routing log (of bench ... moe_log=LAYER) tells: moe FILE ... [against=FILE] [out=FOLDER]
[no-exit-message]
moe *words: setup
    @{{ python }} -m harness moe "$@"

# Check and time expert-parallel dispatch/combine: ep-check backend=NAME [ranks=N] [key=value ...]
[no-exit-message]
ep-check *words: setup
    @{{ python }} -m harness ep-check "$@"

# MORI's benches and benchmark_moe.py, run where they lie: kernel-bench NAME variant=NAME [key=value]
[no-exit-message]
kernel-bench *words: setup
    @{{ python }} -m harness kernel-bench "$@"

# First wrong step of a VLLM_MORI_TRACE log; MORI-VIZ and torch traces in shares of time: trace FILE
[no-exit-message]
trace *words: setup
    @{{ python }} -m harness trace "$@"

# What this machine has, lacks and can run; doctor [VARIANT] nodes=N: do a cluster's go together?
[no-exit-message]
doctor *words: setup
    @{{ python }} -m harness doctor "$@"

# Build an image of docker/: image NAME [KEY=VALUE ...]; without a name, list them
[no-exit-message]
image *words: setup
    @{{ python }} -m harness image "$@"

# Remove what crashed harnesses left; clean --environments [NAME ...]: weigh them, remove those named
[no-exit-message]
clean *words: setup
    @{{ python }} -m harness clean "$@"

# The client's own error against a server of known timing: selfcheck [rate=] [concurrency=] [workers=]
[no-exit-message]
selfcheck *words: setup
    @{{ python }} -m harness selfcheck "$@"

# Which promises an endpoint keeps, how stable its output is: probe http://host:port [model] [--harsh]
[no-exit-message]
probe *words: setup
    @{{ python }} -m harness probe "$@"

# Recompute verdicts from stored records: verify [RUN] [--reference VARIANT]
[no-exit-message]
verify *words: setup
    @{{ python }} -m harness verify "$@"

# The harness's commit
[no-exit-message]
version: setup
    @{{ python }} -m harness version

# Pass the tests
[no-exit-message]
test *words: setup
    @sh scripts/setup.sh dev
    @{{ python }} -m pytest "$@"

# The tests that need no engine, no container, no quiet machine and no whole bench, on two cores; says what it left out
[no-exit-message]
test-fast *words: setup
    @sh scripts/setup.sh dev
    @{{ python }} -m pytest --part fast -n 2 --dist worksteal "$@"

# Format check, lint and types
check: setup
    @sh scripts/setup.sh dev
    {{ python }} -m ruff format --check .
    {{ python }} -m ruff check .
    {{ python }} -m mypy --strict harness engines workloads

# The documentation as a site in .cache/site: what is generated is written again, a broken link is an error
docs:
    @sh scripts/setup.sh docs
    {{ python }} -m scripts.write_docs
    NO_MKDOCS_2_WARNING=1 {{ python }} -m mkdocs build --strict --quiet
