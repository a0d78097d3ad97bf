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

# Serve a variant in the foreground; Ctrl-C stops it
[no-exit-message]
serve variant *model_and_keys: setup
    @{{ python }} -m harness serve "$@"

# Launch, measure and compare: bench <variant|all|a,b,c> [workload|all] [key=value ...]
[no-exit-message]
bench *words: setup
    @{{ python }} -m harness bench "$@"

# Print exactly what would be launched, touch nothing: plan <variant|all> [key=value ...] [--json]
[no-exit-message]
plan *words: setup
    @{{ python }} -m harness plan "$@"

# The client alone against a running endpoint: load url=http://host:port [workload] [key=value ...]
[no-exit-message]
load *words: setup
    @{{ python }} -m harness load "$@"

# Recompute from stored records: compare [RUN ...]; other tools' files: compare FOLDER [baseline=VARIANT]
[no-exit-message]
compare *words: setup
    @{{ python }} -m harness compare "$@"

# Write report.md and report.html of a run again: report [RUN]
[no-exit-message]
report *words: setup
    @{{ python }} -m harness report "$@"

# The experiment log: log [show ID | note ID TEXT | sign ID WHY | check | TEXT | variant= model= verdict= num=]
[no-exit-message]
log *words: setup
    @{{ python }} -m harness log "$@"

# Run a log entry again from its own recipe and say how far the result is: replay ID
[no-exit-message]
replay entry: setup
    @{{ python }} -m harness replay "$@"

# Results of vLLM, SGLang, guidellm, aiperf, InferenceX in this harness's terms: import FILE ...
[no-exit-message]
import *files: setup
    @{{ python }} -m harness import "$@"

# A run's trials in another tool's format: export [RUN] [--format vllm-bench] [--out FOLDER]
[no-exit-message]
export *words: setup
    @{{ python }} -m harness export "$@"

# What a routing log tells (bench ... moe_log=LAYER writes one): moe FILE ... [against=FILE] [out=FOLDER]
[no-exit-message]
moe *words: setup
    @{{ python }} -m harness moe "$@"

# Check and time expert-parallel dispatch/combine: ep-check backend=torch-gloo|torch-nccl|mori|deep_ep|uccl [ranks=N]
[no-exit-message]
ep-check *words: setup
    @{{ python }} -m harness ep-check "$@"

# First wrong step of a VLLM_MORI_TRACE log, or a MORI-VIZ trace per phase and rank: trace FILE
[no-exit-message]
trace *words: setup
    @{{ python }} -m harness trace "$@"

# What this machine has and lacks, and which variants can run here
[no-exit-message]
doctor: setup
    @{{ python }} -m harness doctor

# Build an image of docker/: image NAME [KEY=VALUE ...]
[no-exit-message]
image *words: setup
    @{{ python }} -m harness image "$@"

# Remove what crashed harnesses left behind: containers and engine processes
[no-exit-message]
clean: setup
    @{{ python }} -m harness clean

# The client's own error on this machine: selfcheck [rate=] [concurrency=] [workers=]
[no-exit-message]
selfcheck *words: setup
    @{{ python }} -m harness selfcheck "$@"

# Which promises a running endpoint keeps, how stable its output is: probe http://host:port [model] [--harsh]
[no-exit-message]
probe *words: setup
    @{{ python }} -m harness probe "$@"

# Verdicts again from stored records: verify [RUN] [--reference VARIANT]
[no-exit-message]
verify *words: setup
    @{{ python }} -m harness verify "$@"

# Pass the tests
[no-exit-message]
test *words: setup
    @sh scripts/setup.sh dev
    @{{ python }} -m pytest "$@"

# Format check, lint and types
check: setup
    @sh scripts/setup.sh dev
    {{ python }} -m ruff format --check .
    {{ python }} -m ruff check .
    {{ python }} -m mypy --strict harness engines workloads
