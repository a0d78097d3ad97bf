"""Train a small but real Qwen3-MoE checkpoint on Python's own standard library.

Why: a randomly initialised model repeats one token with flat logits, so a broken engine passes every
greedy comparison on it. A briefly trained one has peaked logits, and a wrong top-k shows at once.

    pip install -r scripts/train.requirements.txt
    OMP_NUM_THREADS=1 python scripts/train_tiny_moe.py --out models/tiny-moe
    python scripts/train_tiny_moe.py --preset gpu --out OUT --max-seconds 300

--out receives the checkpoint (bf16, untied), its tokenizer, heldout.json (rows of token ids for
workloads), train.json (facts) and README.md (the card).
"""

import argparse
import json
import math
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch
from tiny_moe.card import card
from tiny_moe.checkpoint import save, sha256_of
from tiny_moe.corpus import read_corpus, stdlib_folder
from tiny_moe.evaluation import evaluate
from tiny_moe.preset import PRESETS, Preset
from tiny_moe.tokenizer import cut_rows, token_stream, train_tokenizer
from tiny_moe.training import Budget, Diverged, build_model, train

MOST_ROWS = 256


def fail(sentence: str) -> NoReturn:
    sys.exit(f"train_tiny_moe: {sentence}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the preset's)")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="end the schedule by then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def describe_run(arguments: argparse.Namespace) -> dict[str, Any]:
    on_gpu = arguments.device.startswith("cuda")
    return {
        "command": " ".join(["python scripts/train_tiny_moe.py", *sys.argv[1:]]),
        "preset": arguments.preset,
        "seed": arguments.seed,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def make_checkpoint(arguments: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """Everything but the card: corpus, tokenizer, training, saving, evaluation. Returns the facts."""
    out, device = arguments.out, arguments.device
    trained, held = read_corpus(preset.modules, preset.hold_out_every)
    if not held:
        fail(f"{stdlib_folder()} holds too few source files; run a Python that comes with its *.py files.")
    tokenizer = train_tokenizer(trained, preset.vocab_size, preset.shape["max_position_embeddings"])
    if len(tokenizer) != preset.vocab_size:
        fail(
            f"the text yields {len(tokenizer)} tokens of {preset.vocab_size}; run a full Python installation."
        )
    stream, held_stream = token_stream(trained, tokenizer), token_stream(held, tokenizer)
    print(f"{len(stream)} tokens; held out {len(held)} modules, {len(held_stream)} tokens", flush=True)

    model = build_model(preset, tokenizer, device)
    budget = Budget(arguments.steps or preset.steps, arguments.seed, arguments.max_seconds)
    facts = describe_run(arguments) | {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "corpus_tokens": len(stream),
        "heldout_tokens": len(held_stream),
        "heldout_modules": [module.name for module in held],
    }
    facts |= train(model, stream, preset, budget)
    save(model, tokenizer, out)
    row_len = preset.row_lens[0]
    rows = {
        name: cut_rows(s, row_len, MOST_ROWS) for name, s in (("train", stream), ("heldout", held_stream))
    }
    (out / "heldout.json").write_text(json.dumps(rows["heldout"].tolist()) + "\n", encoding="utf-8")
    return facts | evaluate(out, rows, device)


def main() -> None:
    arguments = parse_arguments()
    preset, out = PRESETS[arguments.preset], arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    try:
        facts = make_checkpoint(arguments, preset)
    except Diverged as reason:
        fail(f"{reason}; lower learning_rate in scripts/tiny_moe/preset.py or try another --seed.")
    except torch.OutOfMemoryError:
        fail(f"{arguments.device} ran out of memory; lower batch_len in scripts/tiny_moe/preset.py.")
    if not math.isfinite(facts["heldout_loss_bfloat16"]):
        fail("the saved weights' loss is not finite; lower learning_rate in scripts/tiny_moe/preset.py.")

    files = [
        path for path in out.iterdir() if path.is_file() and path.name not in ("README.md", "train.json")
    ]
    facts["sha256"] = {path.name: sha256_of(path) for path in sorted(files)}
    (out / "train.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(facts, preset.shape), encoding="utf-8")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
