"""What the campaign asks: parts (requests at one concurrency) of configurations (engine starts)."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.correctness import replay
from harness.schema import Arithmetic, Noun

REFERENCE = "vllm-cpu-fp32"


DTYPES_SAID = {"float16": "float16", "bfloat16": "bfloat16", "f16": "float16", "bf16": "bfloat16"}
"""Words of command lines that say a dtype."""


class Part(Noun):
    """Some requests to one engine at one concurrency."""

    seed: int
    concurrency: int = 8
    num: int = 96
    workload: str = "text_tokens"
    num_top: int = 0
    """Alternatives per token asked for."""
    input_len: int = 48
    output_len: int = 256
    forced: bool = False
    """The engine scores its prompts instead of going on with them: text that no loop has made certain."""

    @property
    def name(self) -> str:
        """File name stem."""
        kind = "-forced" if self.forced else f"-top{self.num_top}" if self.num_top else ""
        return f"{self.workload}-c{self.concurrency}-seed{self.seed}{kind}"


class Configuration(Noun):
    """One engine start: which fault (or none) and which arguments."""

    name: str
    parts: tuple[Part, ...]
    fault: str = ""
    """Of tests/sabotage/plugin, which one vLLM loads."""
    checkpoint: str = ""
    """Of tests/sabotage/checkpoints.py, which any engine serves."""
    variant: str = "vllm-cpu"
    args: tuple[str, ...] = ()
    reference: str = REFERENCE
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Of the plugin: where and when its fault strikes."""

    @property
    def dtype(self) -> str:
        """What a label would attest of weights and activations."""
        said = [DTYPES_SAID[word] for word in self.args if word in DTYPES_SAID]
        single = self.variant.endswith("-fp32") or self.variant in ("llamacpp", "transformers")
        return said[-1] if said else "float32" if single else "bfloat16"

    @property
    def part(self) -> replay.Part | None:
        """What the reference plays, as verification.part_of has it; None for float32."""
        if self.dtype == "float32":
            return None
        if "kv-fp8" not in self.name:
            return replay.Part(dtype=self.dtype, arithmetic=Arithmetic(products=self.variant == "llamacpp"))
        # The plugin's rounding, which the campaign of faults has, is to the nearest.
        cut = self.variant.startswith("vllm-cpu") and not self.fault
        arithmetic = Arithmetic(kv_rounding="toward zero" if cut else "")
        return replay.Part(dtype=self.dtype, kv_cache_dtype="fp8_e4m3", arithmetic=arithmetic)


LONG = (Part(seed=100), Part(seed=101, workload="random_tokens", num=96))
"""96 x 256 = 24,576 tokens each."""
FLOORS = (Part(seed=102), Part(seed=102, workload="random_tokens"))
"""Healthy output that the others are held against."""
CONCURRENCIES = (1, 2, 4, 8, 16, 32)
HEALTHY_SEEDS = tuple(
    Part(seed=seed, concurrency=CONCURRENCIES[seed % 6], num=24, workload=name)
    for seed in range(20)
    for name in ("text_tokens", "random_tokens")
)

NUM_TOP = 5


def _topped(first_seed: int, num: int) -> tuple[Part, ...]:
    """Text and random ids at three concurrencies, with alternatives."""
    return tuple(
        Part(seed=first_seed + i, concurrency=concurrency, num=num, workload=name, num_top=NUM_TOP)
        for i, concurrency in enumerate((1, 8, 32))
        for name in ("text_tokens", "random_tokens")
    )


DTYPES = (
    Configuration(name="top-bf16", parts=(*_topped(300, 24), Part(seed=310, num=80, num_top=NUM_TOP))),
    *(
        Configuration(name=f"top-fault-{f}", fault=f, parts=(Part(seed=311, num=n, num_top=NUM_TOP),))
        for f, n in (("a", 8), ("b", 8), ("c", 8), ("e", 8), ("f", 80), ("g", 80))
    ),
    Configuration(name="top-fp16", args=("--dtype", "float16"), parts=_topped(320, 24)),
    Configuration(
        name="top-fp16-transformers",
        variant="transformers",
        args=("--dtype", "float16"),
        parts=(Part(seed=330, concurrency=1, num=16, num_top=NUM_TOP),),
    ),
    Configuration(name="top-fp32", variant="vllm-cpu-fp32", parts=_topped(340, 24), reference="transformers"),
    Configuration(
        name="top-fp32-sglang",
        variant="sglang-cpu-fp32",
        parts=(Part(seed=350, num=16, num_top=NUM_TOP),),
        reference="transformers",
    ),
)
"""Healthy engines of each dtype, and faults, with top logprobs: default floors and the limit of mean_kl."""

CPU = (
    Configuration(name="healthy", parts=(*LONG, *FLOORS, *HEALTHY_SEEDS)),
    Configuration(
        name="healthy-small-chunks",
        args=("--max-num-batched-tokens", "64"),
        parts=(Part(seed=200, num=24), Part(seed=201, num=24, concurrency=32)),
    ),
    *(Configuration(name=f"fault-{fault}", fault=fault, parts=LONG) for fault in "abc"),
    Configuration(name="fault-d", fault="d", parts=(*LONG, Part(seed=103, concurrency=2, num=24))),
    *(Configuration(name=f"fault-{fault}", fault=fault, parts=LONG) for fault in "efg"),
    *DTYPES,
)

POWER_TEXT = Part(seed=500, num=48, input_len=100, output_len=200)
POWER_RANDOM = Part(seed=501, num=24, workload="random_tokens", input_len=100, output_len=200)
POWER_PARTS = (POWER_TEXT, POWER_RANDOM)
POWER_HEALTHY = tuple(
    Part(seed=510 + i, concurrency=concurrency, num=16, workload=name, input_len=100, output_len=200)
    for i, (concurrency, name) in enumerate(
        (c, name) for c in (1, 4, 8, 16, 32) for name in ("text_tokens", "random_tokens")
    )
)
POWER_LATE = Part(seed=530, num=24, input_len=1950, output_len=200)
POWER_CROWDED = Part(seed=531, concurrency=48, num=96, input_len=100, output_len=200)
MANY = ("--max-num-seqs", "64")
SLOTS = ("--slots", "16", "--max-model-len", "512")
LLAMA_BF16 = (*SLOTS, "--weights", "bf16")


def _power(name: str, parts: tuple[Part, ...] = POWER_PARTS, **fields: Any) -> Configuration:
    return Configuration(name=f"power-{name}", parts=parts, reference="transformers", **fields)


POWER = (
    _power("bf16", (*POWER_PARTS, POWER_LATE, *POWER_HEALTHY)),
    *(_power(name, checkpoint=name) for name in ("k-1", "rope-1.5", "eps-100", "int8", "head-zero")),
    *(_power(name, checkpoint=name) for name in ("expert-1.5", "router-swap")),
    _power("router-1-percent", fault="h"),
    _power("kv-fp8", (*POWER_PARTS, *POWER_HEALTHY[:4]), fault="g"),
    _power("late", (POWER_LATE,), fault="e", env={"SABOTAGE_POSITION": "2000"}),
    _power("crowded", (POWER_CROWDED,), fault="d", args=MANY, env={"SABOTAGE_REQUESTS": "32"}),
    _power("fp16", (POWER_TEXT, *POWER_HEALTHY[:6]), args=("--dtype", "float16")),
    _power("sglang-bf16", (*POWER_PARTS, *POWER_HEALTHY), variant="sglang-cpu"),
    _power("sglang-k-1", variant="sglang-cpu", checkpoint="k-1"),
    _power("llamacpp-bf16", (*POWER_PARTS, *POWER_HEALTHY[:6]), variant="llamacpp", args=LLAMA_BF16),
    *(
        _power(f"llamacpp-{name}", variant="llamacpp", checkpoint=name, args=LLAMA_BF16)
        for name in ("k-1", "eps-100", "int8", "rope-1.5", "expert-1.5")
    ),
    _power("transformers-bf16", POWER_HEALTHY[:4], variant="transformers", args=("--dtype", "bfloat16")),
    _power("transformers-fp16", POWER_HEALTHY[:4], variant="transformers", args=("--dtype", "float16")),
)
"""What a verdict that knows this model's rounding sees: faults that each keep most of the tokens right."""

SOUND_SHAPES = ((100, 60), (300, 50), (60, 54))
"""Prompt and output: the shortest trials of `bench all` on a CPU are 12 answers of 50."""


def _sound(name: str, first_seed: int, num: int, **fields: Any) -> Configuration:
    """`num` parts, each with prompts of its own: text and random ids, 8 to 32 in flight."""
    parts = tuple(
        Part(
            seed=first_seed + i,
            concurrency=(16, 8, 32)[i // 2 % 3],
            num=12,
            workload=("text_tokens", "random_tokens")[i % 2],
            input_len=SOUND_SHAPES[i % 3][0],
            output_len=SOUND_SHAPES[i % 3][1],
        )
        for i in range(num)
    )
    return Configuration(name=f"sound-{name}", parts=parts, reference="transformers", **fields)


FP16, BF16, KV_FP8 = (
    ("--dtype", "float16"),
    ("--dtype", "bfloat16"),
    ("--kv-cache-dtype", "fp8_e4m3"),
)
SOUND = (
    _sound("llamacpp-fp32", 1000, 24, variant="llamacpp", args=SLOTS),
    _sound("llamacpp-bf16", 1030, 12, variant="llamacpp", args=LLAMA_BF16),
    _sound("llamacpp-fp16", 1050, 12, variant="llamacpp", args=(*SLOTS, "--weights", "f16")),
    _sound("vllm-bf16", 1100, 24),
    _sound("vllm-fp16", 1200, 12, args=FP16),
    _sound("vllm-fp32", 1300, 12, variant="vllm-cpu-fp32"),
    _sound("vllm-kv-fp8", 1400, 12, args=KV_FP8),
    _sound("sglang-bf16", 1500, 18, variant="sglang-cpu"),
    _sound("sglang-fp16", 1600, 8, variant="sglang-cpu", args=FP16),
    _sound("sglang-kv-fp8", 1640, 8, variant="sglang-cpu", args=KV_FP8),
    _sound("sglang-fp32", 1700, 12, variant="sglang-cpu-fp32"),
    _sound("transformers-fp32", 1750, 8, variant="transformers"),
    _sound("transformers-bf16", 1800, 8, variant="transformers", args=BF16),
    _sound("transformers-fp16", 1900, 8, variant="transformers", args=FP16),
)
"""Healthy engines of a CPU in every precision that they run there: whether any of them FAILs."""

GPU_TEXT = Part(seed=400, concurrency=64, num=64, num_top=NUM_TOP, input_len=1000, output_len=200)
GPU_RANDOM = Part(
    seed=401,
    concurrency=64,
    num=32,
    workload="random_tokens",
    num_top=NUM_TOP,
    input_len=1000,
    output_len=200,
)
GPU_FORCED = Part(seed=402, concurrency=16, num=24, input_len=1000, forced=True)
GPU_LONG = Part(seed=403, concurrency=16, num=24, num_top=NUM_TOP, input_len=2500, output_len=200)
GPU_HEALTHY = tuple(
    Part(
        seed=410 + i,
        concurrency=concurrency,
        num=48,
        workload=name,
        num_top=NUM_TOP,
        input_len=1000,
        output_len=200,
    )
    for i, (concurrency, name) in enumerate(
        ((64, "text_tokens"), (8, "text_tokens"), (64, "text_tokens"), (32, "random_tokens"))
    )
)
GPU_ARGS = {
    "vllm": (
        *("--gpu-memory-utilization", "0.04", "--kv-cache-memory-bytes", "5500M"),
        *("--max-num-seqs", "64", "--max-cudagraph-capture-size", "64"),
    ),
    "sglang": (
        *("--mem-fraction-static", "0.88", "--max-total-tokens", "80000", "--max-running-requests", "64"),
        *("--cuda-graph-max-bs-decode", "64", "--cuda-graph-backend-prefill", "disabled"),
    ),
}
"""Ten servers share one H200: 64 x 1,200 tokens of keys and values each."""


def _on_gpu(engine: str, name: str, parts: tuple[Part, ...], *args: str) -> Configuration:
    """One engine with a checkpoint's fault (`name`), or with arguments of its own."""
    return Configuration(
        name=f"{engine}-{name}",
        variant=f"{engine}-cuda-tp-x1",
        checkpoint="" if args or name == "bf16" else name,
        args=(*GPU_ARGS[engine], *args),
        parts=parts,
        reference="transformers-cuda",
    )


GPU_PARTS = (GPU_TEXT, GPU_RANDOM, GPU_FORCED)
GPU_FAULTS = ("k-1", "rope-1.5", "eps-100", "int8", "head-zero", "expert-1.5", "router-swap", "k-2", "rope-5")
GPU = (
    *(_on_gpu(e, "bf16", (*GPU_PARTS, GPU_LONG, *GPU_HEALTHY)) for e in GPU_ARGS),
    *(_on_gpu(e, "k-1", GPU_PARTS) for e in GPU_ARGS),
    _on_gpu("vllm", "kv-fp8", (*GPU_PARTS, *GPU_HEALTHY[:2]), "--kv-cache-dtype", "fp8"),
    _on_gpu("sglang", "kv-fp8", (*GPU_PARTS, *GPU_HEALTHY[:2]), "--kv-cache-dtype", "fp8_e4m3"),
    *(_on_gpu(e, "fp16", (*GPU_PARTS, *GPU_HEALTHY[:2]), "--dtype", "float16") for e in GPU_ARGS),
    *(_on_gpu(e, fault, GPU_PARTS) for fault in GPU_FAULTS[1:] for e in GPU_ARGS),
    _on_gpu("vllm", "window-2000", (GPU_LONG,)),
)
"""One H200 and the model of `train_tiny_moe.py --preset gpu`, the most telling first. FP8 keys and values are
the same answers whether they were declared or not."""

REUSE = tuple(
    Configuration(name=f"reuse_{name}", parts=(), variant="vllm-cpu+prefix+draft")
    for name in ("unverified", "one-more", "stale", "unkeyed", "healthy", "kv-fp8_scales", "kv-fp8_rounded")
)
"""Faults of caches and drafts, of tests/sabotage/reuse.py: one engine's life."""

CONFIGURATIONS = (*CPU, *POWER, *SOUND, *GPU, *REUSE)
