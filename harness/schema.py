"""Every noun of the system. Read this file and you know the system; every noun is also a file format.

All are frozen, keyword-only and strict: a misspelt field is an error, not a default. Seconds inside
(milliseconds only in reports); `num_*` counts, `*_len` token lengths, `*_size` parallel sizes.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, NamedTuple, dataclass_transform

import msgspec

SCHEMA_VERSION = 1
WHOLE_SHARE = 0.05
"""Share of answers that arrived whole from which on latencies are those of the delivery."""
COARSE_CHUNK = 8.0
"""Tokens per chunk from which on they are; speculative decoding makes two to four in one step."""

Scalar = str | int | float | bool | None
Accelerator = Literal["cpu", "cuda", "rocm"]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _NounMeta(msgspec.StructMeta):
    """Tells type checkers what msgspec does at run time: options are inherited."""


class Noun(msgspec.Struct, metaclass=_NounMeta, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all nouns."""


# --- what may be run ---------------------------------------------------------------------------


class MoeFacts(Noun):
    """Routing shape of a mixture-of-experts model, as its config.json states it."""

    num_experts: int
    num_experts_per_tok: int
    num_moe_layers: int
    hidden_size: int = 0
    intermediate_size: int = 0
    """Of one expert."""


class Model(Noun):
    """One alias of models/models.toml. `path` is where the weights lie here; "" when they are not here."""

    alias: str
    hf_id: str = ""
    revision: str = ""
    """Commit on the Hub that runs are meant for; "" = not pinned."""
    loaded_revision: str = ""
    """Commit that the weights on this machine are of; "" when nothing says so."""
    path: str = ""
    num_params_b: float = 0.0
    weights_gb: float = 0.0
    max_model_len: int = 0
    moe: MoeFacts | None = None
    architecture: str = ""
    """First of config.json's architectures, e.g. DeepseekV3ForCausalLM; "" when not known."""
    tied_embeddings: bool = False
    """The output layer shares the embedding's weights."""
    quantisation: str = ""
    """fp8, mxfp4, nvfp4, int4 ... of the checkpoint itself; "" = as trained."""
    experts_share: float = 0.0
    """Share of the weights' bytes that routed experts take; 0 = not known."""
    tokenizer: str = ""
    """Folder of config and tokenizer, where the weights themselves are not here."""
    draft: str = ""
    """Alias of a model with the same tokenizer that is fit to draft for it; "" = none is named."""
    eagle3: str = ""
    """Alias of an EAGLE-3 head made for it."""
    num_mtp_layers: int = 0
    """Layers for multi-token prediction in its own weights, as config.json states them."""
    made_by: str = ""
    """Command that makes weights which nobody publishes, from the repository's root."""


class Parallel(Noun):
    """Sizes the label claims. `attention_data` splits the tensor group (SGLang DP attention)."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    attention_data: int = 1

    @property
    def num_gpus(self) -> int:
        """Accelerators one server needs: tensor x pipeline x data (attention_data lies inside tensor)."""
        return self.tensor * self.pipeline * self.data


class Variant(Noun):
    """A named configuration of an engine: one table of engines/<engine>.toml."""

    name: str
    engine: str
    source: str
    accelerator: Accelerator
    version: str
    """Engine version whose flag dialect `args` are rendered for."""
    environment: str = ""
    """Name of the process environment (.engines/<environment>); "" = whatever is on PATH."""
    image: str = ""
    model: str = ""
    """Default model alias."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings an engine takes from a file (TensorRT-LLM YAML)."""
    parallel: Parallel = Parallel()
    expect: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Fields of Effective that must hold once it runs, else the row is mislabelled."""
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    """Why a setting differs from its rivals': field of Effective -> reason (fairness ledger)."""
    max_model_len: int = 0
    """Longest prompt + output it is started with; 0 = the model's own."""
    shapes: tuple[str, ...] = ()
    """ISL/OSL that it is made for, planned when no workload is named; () = the origin's."""
    in_bench_all: bool = True
    switches: tuple[str, ...] = ()
    """Options of production that its name switches on: prefix, draft=ALIAS (harness/label/switches.py)."""
    privileged: bool = False
    """Its container needs all devices of the host (DeepEP's IBGDA transport)."""
    traces: str = ""
    """Folder in `args` that its profiler writes to: a run keeps it as traces/ beside the log; "" = none."""
    slot: Literal["", "default", "vendor", "tuned"] = ""
    """Whose choice it is: the engine's own, its vendor's recipe, found by `tune`; "" = this project's."""
    found: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Of a vendor's or tuned one: where, when and how it was found, with its proof."""
    nodes: int = 1
    """Machines that share `parallel` evenly: NAME-n2, or NAME with nodes=2."""


class Deployment(Noun):
    """A variant about to be launched with this model: everything an engine's launch() may look at.

    Folders and addresses are those of the place where the engine runs: its launcher says them.
    """

    model: Model
    launcher: str
    model_path: str
    """The weights."""
    served_model_name: str
    draft: Model | None = None
    """Another model that a switch needs beside it (+draft, +eagle3)."""
    draft_path: str = ""
    """Its weights."""
    also_served_as: tuple[str, ...] = ()
    """More names under which requests may ask for it, where the engine takes several."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    python: str = ""
    """Interpreter of the engine's environment; "" = the engine's own program on PATH."""
    extra_args: tuple[str, ...] = ()
    extra_env: dict[str, str] = msgspec.field(default_factory=dict)
    url: str = ""
    """Base URL of a server somebody else runs (attach)."""
    root: str = "."
    """This repository."""
    files: str = "."
    """Folder for files that the engine is to be given (Launch.files)."""


HEAD = "{head}"
"""Stands in a rank's command and variables for the first node's address, known once the nodes are."""


class Rank(Noun):
    """What one node runs of an engine: its own command, variables over the launch's."""

    argv: tuple[str, ...] = ()
    """() = the first node's."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    role: str = "worker"


class Launch(Noun):
    """Exactly what will be started. Written as launch.json; printed by `plan`.

    An engine's launch() says argv, env, files, and what is special of its endpoints; the rest is filled in by
    planned.render().
    """

    variant: str = ""
    engine: str = ""
    launcher: str = ""
    """File of harness/launchers/ that starts it."""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """Path as the engine sees it -> content, written before the start."""
    mounts: dict[str, str] = msgspec.field(default_factory=dict)
    """Host path -> container path; read-only unless the container path ends in ':rw'."""
    image: str = ""
    accelerator: Accelerator = "cpu"
    num_gpus: int = 0
    host: str = "127.0.0.1"
    port: int = 8000
    url: str = ""
    """Base URL, when it is not http://host:port (attach)."""
    served_model_name: str = ""
    model: str = ""
    """What resolves to its weights: alias, Hugging Face id or folder; "" in older files: the served name."""
    ready_path: str = "/health"
    api_key_env: str = ""
    """Name of the caller's variable that holds the API key; the key itself is written nowhere."""
    metrics_path: str = "/metrics"
    """Where the engine serves Prometheus text; "" = nowhere that may be read."""
    ready_timeout_s: float = 1800.0
    """Longest start, however busy its log is."""
    quiet_timeout_s: float = 300.0
    """Silence of its log after which a start counts as hung."""
    step_timeout_s: float = 1800.0
    """The same after a line that announces weight load, JIT compilation or graph capture."""
    stop_grace_s: float = 30.0
    revision: str = ""
    """Commit on the Hub of the weights that are loaded; "" = not known: environment.json has their sha256."""
    labels: tuple[str, ...] = ()
    """Marks that travel with every number, e.g. "dummy-weights"."""
    secrets: tuple[str, ...] = ("HF_TOKEN",)
    """Variables of the caller that a container gets by name; their values are written nowhere."""
    memory_gb: float = 0.0
    """Most memory a container may take, GiB; 0 = no limit."""
    privileged: bool = False
    """Container with all devices of the host: DeepEP's IBGDA transport needs it."""
    others: tuple[Rank, ...] = ()
    """What the nodes after the first run; () = argv is all there is."""
    mpi: str = ""
    """Kind of MPI that srun starts one task per accelerator with; "" = one task per node, no MPI."""
    host_network: bool = False
    """Containers share their host's network and RDMA devices: ranks reach each other."""
    interface: str = ""
    """Network interface that ranks meet on; "" = that of the nodes' own addresses."""
    srun: str = ""
    """Words for srun: which nodes to take, where nobody has allocated them yet."""

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """Every node's, the first's first, each with all of its variables."""
        first = Rank(argv=self.argv, env=self.env, role="head")
        return (
            first,
            *(Rank(argv=r.argv or self.argv, env={**self.env, **r.env}, role=r.role) for r in self.others),
        )

    def of_rank(self, number: int, head: str = HEAD) -> Launch:
        """What one node starts, the first node's address filled in."""
        rank = self.ranks[number]
        return msgspec.structs.replace(
            self,
            argv=tuple(word.replace(HEAD, head) for word in rank.argv),
            env={name: value.replace(HEAD, head) for name, value in rank.env.items()},
            num_gpus=self.num_gpus // len(self.ranks),
            others=(),
        )

    @property
    def base_url(self) -> str:
        """Where clients connect, without a trailing slash."""
        return self.url.rstrip("/") or f"http://{self.host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where its Prometheus text is read; "" when it has none."""
        return self.base_url + self.metrics_path if self.metrics_path else ""


# --- what really runs --------------------------------------------------------------------------


class Evidence(Noun):
    """What a running engine shows of itself, fetched once it is ready; effective() parses it."""

    log: tuple[str, ...] = ()
    """Of the first rank."""
    other_logs: tuple[tuple[str, ...], ...] = ()
    """Of the ranks after it."""
    server_info: dict[str, Any] = msgspec.field(default_factory=dict)
    version: dict[str, Any] = msgspec.field(default_factory=dict)
    models: dict[str, Any] = msgspec.field(default_factory=dict)
    metrics: str = ""
    cmdline: tuple[str, ...] = ()
    environ: dict[str, str] = msgspec.field(default_factory=dict)


class Effective(Noun):
    """What the engine truly uses; None = it does not show. `proof` holds the line behind each value."""

    engine_version: str | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    attention_data_parallel_size: int | None = None
    expert_parallel_size: int | None = None
    all2all: str | None = None
    """Backend whose manager was really built: mori, deepep_ht, allgather_reducescatter ...; "none"."""
    moe_kernel: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    load_format: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    prefix_cache: bool | None = None
    chunked_prefill: bool | None = None
    cuda_graphs: bool | None = None
    torch_compile: bool | None = None
    speculative: str | None = None
    """Method of speculative decoding; "none"."""
    kv_offload: str | None = None
    """Where keys and values go that accelerators have no room for: cpu; "none"."""
    stream_interval: int | None = None
    attention_backend: str | None = None
    device: str | None = None
    proof: dict[str, str] = msgspec.field(default_factory=dict)


class Arithmetic(Noun):
    """What `dtype` and `kv_cache_dtype` do not say of how an engine rounds."""

    kv_rounding: Literal["", "toward zero"] = ""
    """How keys and values get into fewer bits; "" = to the nearest."""
    products: bool = False
    """Only what goes into matrix products is in `dtype`; their sums and all between them are in float32."""


class Claim(Noun):
    """One expectation of a label against what runs."""

    field: str
    expected: Scalar
    actual: Scalar
    held: bool
    proof: str = ""


class Attestation(Noun):
    """All claims of one launch; the row is valid only if every one held."""

    effective: Effective = Effective()
    claims: tuple[Claim, ...] = ()

    @property
    def valid(self) -> bool:
        """True when every claim held."""
        return all(c.held for c in self.claims)

    @property
    def reason(self) -> str:
        """The claims that did not hold, in words; "" when valid."""
        return "; ".join(
            f"{c.field}: label says {c.expected!r}, engine "
            + ("does not show it" if c.actual is None else f"runs {c.actual!r}")
            for c in self.claims
            if not c.held
        )


# --- the work ----------------------------------------------------------------------------------


class Sampling(Noun, omit_defaults=True):
    """How tokens are to be chosen. Every default is neutral: the model's own distribution.

    All fields are sent to every engine, neutral ones too, so that no default of an engine, and no
    generation_config.json of a model, slips in.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most likely tokens that stay; 0 = all."""
    min_p: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """Share of the best token's probability below which a token is dropped."""
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2.0, le=2.0)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    seed: int | None = None
    """Request number i is sent seed + i; None: none is sent, as products do."""

    @property
    def label(self) -> str:
        """Short name: t0.7-p0.95-k20."""
        short = {
            "top_p": "p",
            "top_k": "k",
            "min_p": "m",
            "presence_penalty": "pp",
            "frequency_penalty": "fp",
            "repetition_penalty": "rp",
            "seed": "s",
        }
        given = msgspec.to_builtins(self)
        return "-".join([f"t{self.temperature:g}", *(f"{short[n]}{given[n]:g}" for n in short if n in given)])


class Sampler(Noun):
    """How an engine's sampler is asked, and what it does: SAMPLER of an engine's file."""

    fields: dict[str, str] = msgspec.field(default_factory=dict)
    """Field of Sampling -> what its API calls it, where that differs."""
    every_token: int = -1
    """The top_k that keeps all."""
    extras: dict[str, Any] = msgspec.field(default_factory=dict)
    """Body fields that go with every sampled request."""
    order: tuple[str, ...] = ("penalties", "temperature", "top_k", "top_p", "min_p")
    joint: bool = False
    """top_k, top_p and min_p each look at the whole distribution, not at what the one before left of it."""
    repetition_of: Literal["all", "output"] = "all"
    """Tokens that repetition_penalty counts: prompt and output, or the output."""
    presence_of: Literal["all", "output"] = "output"
    """Tokens that presence_penalty and frequency_penalty count."""
    bans_eos: bool = False
    """ignore_eos makes end tokens impossible; else they may be sampled and the output goes on."""
    raw_logprobs: bool = True
    """Its logprobs are the model's own; else those after penalties and temperature."""
    noise: str = ""
    """Name of its seeded noise where the transformers reference can repeat it; "" = none."""


class WorkloadSpec(Noun):
    """Which requests: the file workloads/<name>.py, its parameters, how many, which seed."""

    name: str
    num_prompts: int = 50
    seed: int = 0
    params: dict[str, Scalar] = msgspec.field(default_factory=dict)
    loads: tuple[str, ...] = ()
    """Labels or kinds of the recipe's loads it is fired at (c64, 10rps, stages ...); () = all of them."""
    title: str = ""
    """Its own name in tables, where a recipe has the same workload twice with other parameters."""
    sampling: Sampling | None = None
    """None = greedy."""
    ignore_eos: bool = True
    """False: outputs end where the model ends them, at max_tokens at the latest."""

    @property
    def label(self) -> str:
        """Short name used in tables and folder names: 1000-2000, text-100-200-t0.7, sharegpt-sample ..."""
        if self.title:
            return self.title
        parts = [self._shape, self.sampling.label if self.sampling else "", "" if self.ignore_eos else "eos"]
        return "-".join(filter(None, parts))

    @property
    def _shape(self) -> str:
        kind = {"random_tokens": "", "text_tokens": "text-"}.get(self.name)
        if kind is None:
            return self.file.replace("_", "-") if self.name.startswith("sharegpt") else self.name
        return f"{kind}{self.params.get('input_len')}-{self.params.get('output_len')}"

    @property
    def file(self) -> str:
        """Its module in workloads/, without .py."""
        return "sharegpt_sample" if self.of_old else self.name.replace("-", "_")

    @property
    def of_old(self) -> bool:
        """Named "sharegpt" when that meant what is called sharegpt-sample now: ShareGPT itself has a path."""
        return self.name == "sharegpt" and not self.params.get("path")


class Load(Noun):
    """When the requests go out. No request_rate = closed loop at max_concurrency; rates are requests/s."""

    max_concurrency: int | None = None
    request_rate: float | None = None
    arrival: Literal["closed", "constant", "poisson", "gamma", "ramp", "stages", "trace"] = "closed"
    burstiness: float = 1.0
    """Gamma shape of inter-arrival times: 1 = Poisson, larger = more even."""
    ramp_to: float | None = None
    stages: tuple[tuple[float, float], ...] = ()
    """(duration_s, requests/s) pairs."""
    time_scale: float = 1.0
    """Trace times are divided by this."""
    duration_s: float | None = None
    """Nothing more is sent after this many seconds; requests not sent by then leave no record."""
    search: Literal["", "goodput"] = ""
    """goodput: find the largest rate that meets the recipe's slo; request_rate is where it begins."""

    @property
    def label(self) -> str:
        """Its name, a folder's too, another one for every load: c8, 10rps-c8, 10rps-gamma0.5, 10rps-30s."""
        return self._named(self._particulars, f"{self.duration_s:g}s" if self.duration_s else "")

    @property
    def kind(self) -> str:
        """The name without what tells it from others of its kind: 10rps-gamma, stages, 10rps."""
        return self._named("", "")

    def _named(self, particulars: str, duration: str) -> str:
        rate = f"{self.request_rate:g}rps" if self.request_rate and not self.search else ""
        arrival = "" if self.arrival in ("closed", "poisson") else self.arrival
        limit = f"c{self.max_concurrency}" if self.max_concurrency else ""
        parts = (rate, self.search, arrival + particulars, limit, duration)
        return "-".join(filter(None, parts)) or "c1"

    @property
    def _particulars(self) -> str:
        """What stands behind the arrival's name: only what differs from the usual and has an effect."""
        uneven = f"{self.burstiness:g}" if self.burstiness != 1 else ""
        if self.arrival == "gamma":
            return uneven
        gamma = f"gamma{uneven}" if uneven else ""
        if self.arrival in ("closed", "poisson"):
            return gamma if self.request_rate else ""
        if self.arrival == "trace":
            return f"-x{self.time_scale:g}" if self.time_scale != 1 else ""
        own = {"ramp": f"{self.ramp_to or 0:g}", "stages": _told_stages(self.stages)}.get(self.arrival, "")
        return f"{own}-{gamma}" if gamma and own else own


def _told_stages(stages: tuple[tuple[float, float], ...]) -> str:
    """-2rps5s-8rps5s; of more than four, which no folder's name holds, their number and a hash."""
    if len(stages) > 4:
        return f"{len(stages)}-{hashlib.sha256(repr(stages).encode()).hexdigest()[:8]}"
    return "".join(f"-{rate:g}rps{seconds:g}s" for seconds, rate in stages)


class Request(Noun):
    """One request, engine-neutral. Exactly one of prompt_token_ids, prompt, messages is set."""

    request_id: str
    max_tokens: int
    prompt_token_ids: tuple[int, ...] | None = None
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    prompt_len: int = 0
    """Tokens of `prompt` by our own count, where ids were turned into text; 0 = not counted."""
    ignore_eos: bool = True
    temperature: float = 0.0
    seed: int = 0
    sampling: Sampling | None = None
    """How its tokens are to be chosen, with its own seed; None = by `temperature` and `seed`: greedy."""
    logprobs: bool = False
    """Ask for emitted tokens' logprobs: the seeded sample that is verified, the same for all engines."""
    top_logprobs: int = 0
    """With them, the best alternatives per token asked for; 0 = none beyond what the API always gives."""
    due_at_s: float = 0.0
    """Seconds after the start of the timed part; 0 in a closed loop."""
    session: str = ""
    """Requests of one multi-turn conversation share it and run in order."""
    after: tuple[str, ...] = ()
    """More requests that must have ended before it is due: sub-agents that it waits for, the one it is of."""
    think_s: float = 0.0
    """From the last of those ends until it is due: a person thinks, a tool runs."""


ErrorKind = Literal[
    "", "refused", "reset", "http", "timeout", "stall", "truncated", "engine", "protocol", "cancelled"
]


class RequestRecord(Noun):
    """What one request did. Times are seconds on the client's monotonic clock since the trial's start.

    Its latencies are defined once, in harness.numbers.columns.
    """

    request_id: str
    due_at_s: float = 0.0
    sent_at_s: float = 0.0
    content_at_s: tuple[float, ...] = ()
    """Arrival of each chunk that carried generated content."""
    done_at_s: float = 0.0
    prompt_len: int = 0
    """Tokens sent, by our own count."""
    input_len: int = 0
    """The server's usage.prompt_tokens; 0 when it sent no usage."""
    output_len: int = 0
    """The server's usage.completion_tokens; re-tokenised when it sent no usage."""
    usage: bool = False
    cached_len: int = 0
    """Tokens of its prompt that came from a cache, as its usage says."""
    runs: tuple[tuple[int, int], ...] = ()
    """(position of the first, tokens) of chunks with several token ids: those of one verification."""
    drafted_len: int = 0
    accepted_len: int = 0
    """Draft tokens proposed and accepted, as the answer itself says; 0 where it does not."""
    output_token_ids: tuple[int, ...] | None = None
    output_logprobs: tuple[float, ...] | None = None
    output_tokens: tuple[str, ...] | None = None
    """Text of each token, where logprobs came with it and no ids did."""
    top_logprobs: tuple[dict[str, float], ...] | None = None
    """Per token, alternatives with their logprobs as the engine names them: text, or "token_id:N"."""
    text: str = ""
    finish_reason: str = ""
    http_status: int = 0
    error_kind: ErrorKind = ""
    error: str = ""
    """"" means it succeeded."""


# --- a run -------------------------------------------------------------------------------------

Prompts = Literal["ids", "text", "chat"]
"""How prompts are sent: as token ids, as their text, or as one user message."""


MAX_TOP = 20
"""Alternatives per token that every engine grants without being started for more."""


class Options(Noun, omit_defaults=True):
    """Switches of single features: [options] of a recipe, key=value on the command line."""

    against: str = ""
    """Entry of the log to be compared with afterwards: last = the newest that asked the same."""
    allow_dummy_moe: bool = False
    """Measure a mixture of experts on dummy weights, labelled so."""
    allow_overrides: bool = False
    """Measure a model whose configuration the command line changes, labelled so."""
    api_key_env: str = ""
    """Name of the caller's variable that holds the endpoint's API key."""
    bisect: str = ""
    """What a bisection looks at: output_throughput, ttft, tpot, verdict, output, label or start.

    The variants are the candidates, good first, bad last; repeats= is the most rounds a decision may take.
    """
    budget_s: float = 0.0
    """repeats=auto starts no round that would end later than this; 0 = no limit."""
    second_opinion: str = msgspec.field(default="", name="client")
    """Other tools that measure the same server after us: vllm-bench,aiperf ... Files call it client."""
    place: str = msgspec.field(default="", name="clients")
    """Command that places client processes: srun --ntasks=4 ... Files call it clients."""
    place_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """Longest that place= may wait in a scheduler's queue until all its processes have started."""
    interface: str = ""
    """Network interface that the ranks of several nodes meet on."""
    moe_log: Scalar = None
    """Layers whose routing is logged: true or "all", 0, "0,12,23"."""
    percentile: Annotated[float, msgspec.Meta(ge=50.0, lt=100.0)] = 99.0
    """Tail that is asked for: open loops send as many requests as it needs; it is printed where certified."""
    price: float | None = None
    """Of an accelerator, or of a host without any, per hour."""
    prompts: Prompts = "ids"
    hypothesis: str = ""
    """What a sealed run expects to find, in words; "" = any difference."""
    seal: bool = False
    """Write what will be compared into the log before the first launch: docs/RELIABILITY.md."""
    reference_api_key_env: str = ""
    """Name of the variable that holds the API key of reference=URL; the endpoint's own is not sent there."""
    served_name: str = ""
    """Name of the model at an endpoint that serves several."""
    slo_share: float = 0.99
    """Share of requests that must meet the SLO where its largest rate is searched for."""
    smallest: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """Smallest difference that a sealed run is interested in, a share."""
    srun: str = ""
    """Words for srun where it starts engines, outside an allocation: --partition=gpu --gpus-per-node=8 ..."""
    stream: bool = True
    """False: whole answers; TTFT and TPOT are then those of the whole."""
    strict: bool = False
    """Rank only what shows everything that harness/numbers/strict.py asks for."""
    task_limit: int = 0
    """First items of each task only; 0 = all."""
    tasks: str = ""
    """Tasks of lm-evaluation-harness: gsm8k,next_word ..."""
    top_logprobs: int = 0
    """Alternatives per verified token that engines are asked for."""
    tuning: str = ""
    """Part of a tuning campaign that this run is: search, shortlist, proof. `tune` sets it."""
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Client processes."""


def scenario(workload: WorkloadSpec, load: Load) -> str:
    """What is done, whoever does it: the folder's and the row's name."""
    return f"{workload.label}@{load.label}"


class Recipe(Noun):
    """One question. A recipes/*.toml file, or what the command line amounts to."""

    question: str
    variants: tuple[str, ...]
    model: str = ""
    """Alias for all variants; "" = each variant's own default."""
    workloads: tuple[WorkloadSpec, ...] = ()
    loads: tuple[Load, ...] = ()
    repeats: int = 1
    """Server restarts per variant, in interleaved order A B B A ...; 0 = auto, until intervals are tight."""
    reference: str = ""
    """Variant, or endpoint of the same model (http://...), that judges; none = nobody; "" = the usual one."""
    baseline: str = ""
    """Variant that ratios are stated against; "" = the first."""
    warmup: int = 2
    """Requests per trial before the timed part."""
    slo: dict[str, float] = msgspec.field(default_factory=dict)
    """Limits in seconds on ttft_s, tpot_s, e2el_s; goodput counts requests that meet all.

    TTFT and E2EL then include the schedule delay: what a user waits.
    """
    launcher: str | None = None
    """File of harness/launchers/; none: each variant's usual one."""
    url: str = ""
    python: str = ""
    """Interpreter to use instead of each variant's own environment; {version} is the variant's."""
    image: str = ""
    """Image to use instead of each variant's own, in a container; {version} is the variant's."""
    args: tuple[str, ...] = ()
    """Engine arguments appended to every variant."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Options of the engines' files over each variant's own: prefix_cache, all2all ..."""
    seed: int = 0
    request_timeout_s: float = 600.0
    verify_requests: int = 16
    """Requests per trial replayed through the reference."""
    options: Options = Options()

    @property
    def offered(self) -> tuple[tuple[WorkloadSpec, Load], ...]:
        """Each workload at each load that it is for, in the recipe's order."""
        return tuple(
            (workload, load)
            for workload in self.workloads
            for load in self.loads
            if not workload.loads or {load.label, load.kind} & {*workload.loads}
        )

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(scenario(*one) for one in self.offered)


class Trial(Noun):
    """One variant at one load, in one server life (restart)."""

    variant: str
    workload: WorkloadSpec
    load: Load
    restart: int = 1

    @property
    def scenario(self) -> str:
        """workload@load: what is compared between variants."""
        return scenario(self.workload, self.load)

    @property
    def folder(self) -> str:
        """Where a run keeps it: the scenario, under the name that its workload had when it was measured."""
        spec = self.workload
        return f"{spec.name}@{self.load.label}" if spec.of_old and not spec.title else self.scenario

    @property
    def folder_of_old(self) -> str:
        """The same before a load's name told all of it."""
        return f"{self.folder.rpartition('@')[0]}@{self.load.kind}"


class TrialResult(Noun):
    """trial.json: how a trial ended. Its numbers are recomputed from requests.jsonl."""

    trial: Trial
    status: Literal["done", "failed", "skipped", "interrupted"]
    reason: str = ""
    """Cause when not done."""
    evidence: str = ""
    """Log tail or matched signature, when it failed."""
    started_at: str = ""
    """Wall clock, ISO 8601 UTC."""
    duration_s: float = 0.0
    client_cpu_s: float = 0.0
    counters: dict[str, float] = msgspec.field(default_factory=dict)
    """Deltas of the engine's own counters over the timed part, canonical names."""
    told: dict[str, float] = msgspec.field(default_factory=dict)
    """Sums over the answers, to hold the counters against: prompt_tokens, cached_tokens, draft_tokens,
    accepted_tokens (as answers say), run_tokens (tokens behind the first of their chunk)."""
    notes: tuple[str, ...] = ()
    """Warnings that belong beside the numbers."""
    invalid: str = ""
    """Why the numbers must not be published, "" when they may."""
    schema_version: int = SCHEMA_VERSION


class Spent(Noun):
    """spent.json: time one restart of a variant took, from its calibration until its engine had stopped."""

    seconds: float
    """Of all its engine lives together; of the last time, where it was resumed."""


class Workload(Noun):
    """workload.json: proof of identical work."""

    spec: WorkloadSpec
    load: Load
    num_requests: int
    sha256: str
    """Over token ids (or text), max_tokens, due times and sampling of all requests, in order."""
    input_len_total: int = 0
    output_len_total: int = 0
    schema_version: int = SCHEMA_VERSION


class Distribution(Noun):
    """Summary of one latency, seconds; None = a foreign result does not say."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Metrics(Noun):
    """Numbers of one trial, recomputed from its records. Rates are per second of the window."""

    completed: int
    failed: int
    window_s: float
    """First sent -> last content, successful requests."""
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    request_goodput: float | None = None
    steady_window_s: float | None = None
    """Part of the window in which at least 90 % of the most requests were in flight; None = too short."""
    steady_output_throughput: float | None = None
    """Output tokens/s within it: what ramps at both ends do not dilute."""
    ttft_s: Distribution | None = None
    tpot_s: Distribution | None = None
    icl_s: Distribution | None = None
    e2el_s: Distribution | None = None
    schedule_delay_s: Distribution | None = None
    due_ttft_s: Distribution | None = None
    """First content - due: what a user waits. The same as ttft_s in a closed loop."""
    due_e2el_s: Distribution | None = None
    """Last content - due."""
    whole_share: float = 0.0
    """Share of the answers of 8 and more tokens whose chunks all came at once."""
    tokens_per_chunk: float | None = None
    """Output tokens / content chunks."""

    @property
    def delivered(self) -> bool:
        """TTFT and TPOT describe how answers were delivered, not how they were generated."""
        return self.whole_share > WHOLE_SHARE or (self.tokens_per_chunk or 0.0) >= COARSE_CHUNK


class Played(Noun):
    """The reference in the part of the engine, on the tokens that the engine said: one entry per token."""

    precision: str
    """What was played: dtype, and that of keys and values where it is another."""
    logprob: tuple[float, ...]
    """Of the emitted token, in that precision."""
    margin: tuple[float, ...]
    """By the full-precision reference: best logprob - that of the token which that precision prefers."""
    faults: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    """Fault -> logprob of the emitted token with it - without it, both in full precision."""


class Drawn(Noun):
    """What the distribution that a sampled output was to be drawn from says of it: one entry per token.

    It is the reference's own, after all processors: p. Its tokens may be none of those that p allows.
    """

    logprob: tuple[float, ...]
    """log p of the token, nats; -9999 where p does not allow it."""
    entropy: tuple[float, ...]
    """Of p, nats: the mean of -log p of a true sampler's token."""
    variance: tuple[float, ...]
    """Of -log p."""
    beyond: tuple[float, ...]
    """1 where p allows it not even with room for rounding at its edges."""
    cubes: tuple[float, ...]
    """Sum of p^3: the middle of a drawn token's cell has variance (1 - that) / 12."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """The token's cell of [0, 1): probability of the likelier ones, and of those and itself."""
    low_by_id: tuple[float, ...]
    high_by_id: tuple[float, ...]
    """The same with tokens in the order of their ids."""
    end: tuple[float, ...]
    """Probability of the end tokens."""
    met: tuple[float, ...] = ()
    """Of what outputs scored before said at this position."""
    meets: tuple[float, ...] = ()
    """1 where the token is one of those."""
    noise_margin: tuple[float, ...] = ()
    """What the token misses the largest log p + noise by, where the engine's seeded noise can be repeated."""
    decoy_margin: tuple[float, ...] = ()
    """The same with another seed than the engine's."""
    stray: tuple[float, ...] = ()
    """Probability of what is beyond, of the same in the engine's precision: what rounding explains."""
    drift: tuple[float, ...] = ()
    """Mean of -log p in the engine's precision - entropy."""
    faults: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    """Fault of a sampler -> sums over the tokens: log-likelihood ratio against p, its mean and variance under
    that fault, the fault's probability of what is beyond."""
    ended: bool | None = None
    """Whether the output ended by itself; None where it was not allowed to."""


class Score(Noun):
    """One request's output, teacher-forced through the reference: one entry per emitted token."""

    request_id: str
    reference: str
    token_ids: tuple[int, ...]
    logprob: tuple[float, ...]
    """The reference's natural-log probability of the emitted token."""
    rank: tuple[int, ...]
    """1 = the reference's own choice."""
    margin: tuple[float, ...]
    """Reference's best logprob - emitted token's; 0 where the reference agrees."""
    emitted_logprob: tuple[float, ...] | None = None
    """The engine's own logprob of the token it emitted, where it gave one."""
    top_logprobs: tuple[dict[int, float], ...] = ()
    """Per token, the reference's best token ids with their logprobs, where the engine gave its own."""
    emitted_top_logprobs: tuple[dict[int, float], ...] = ()
    """The engine's own; tokens it named ambiguously are left out."""
    played: Played | None = None
    """What rounding and named faults do to the reference on these tokens; None where it did not say."""
    drawn: Drawn | None = None
    """Where the output was sampled and the reference could say what from."""
    sampled: bool = False
    """Margins and choices are then luck, and not judged."""
    prompt_token_ids: tuple[int, ...] = ()
    """Kept, so that stored outputs can be replayed through another reference."""
    retokenised: bool = False
    """The ids were made from the output text, because the engine gave none."""
    error: str = ""


Verdict = Literal["PASS", "FAIL", "CANNOT TELL", ""]
""""" = nothing was replayed: only the text was looked at."""


class Interval(Noun):
    """A mean over restarts with its confidence interval; low = high = mean when there was one."""

    mean: float
    low: float
    high: float
    num: int


class Population(Noun):
    """The verdict on some of a row's tokens alone: those that an option of production had a hand in."""

    name: str
    """behind a cache hit; accepted from a draft; each, turn 3; the others."""
    verdict: Verdict
    reason: str = ""
    num_requests: int = 0
    num_tokens: int = 0
    token_match: float | None = None
    noise_ratio: float | None = None
    mean_abs_dlogprob: float | None = None
    power: str = ""
    """What this verdict would have seen with 95 %."""


class Agreement(Noun):
    """Correctness of one trial's timed output against the reference."""

    verdict: Verdict
    reference: str = ""
    reason: str = ""
    num_requests: int = 0
    num_tokens: int = 0
    token_match: float | None = None
    """Share of emitted tokens that are the reference's own greedy choice (teacher-forced)."""
    request_match: float | None = None
    """Share of requests in which every token is."""
    first_divergence: int | None = None
    """Median output position of the first non-matching token, over requests that have one."""
    near_ties: int = 0
    """Non-matching tokens within the near-tie margin: benign."""
    mean_margin: float | None = None
    p99_margin: float | None = None
    mean_abs_dlogprob: float | None = None
    """Mean |engine's logprob - reference's| of emitted tokens, where the engine gave logprobs."""
    statistics: dict[str, Interval] = msgspec.field(default_factory=dict)
    """Every judged statistic with its bootstrap interval over requests."""
    floor: dict[str, float] = msgspec.field(default_factory=dict)
    """The same statistics of healthy output: the noise that is not a fault."""
    floor_source: str = ""
    """Where the floor comes from: measured in this run, or the default of a dtype."""
    self_noise: dict[str, float] = msgspec.field(default_factory=dict)
    """The same statistics of the variant's restarts against each other; {} with one restart."""
    outside_mass: float | None = None
    """Mean probability, by the reference, of tokens outside the shared top logprobs that mean_kl looks at."""
    thresholds: dict[str, float] = msgspec.field(default_factory=dict)
    """Multiples of the floor beyond which the output fails."""
    num_effective: int | None = None
    """Tokens in full doubt that would tell as much: looped ones are nearly certain under any model."""
    likeness: dict[str, Interval] = msgspec.field(default_factory=dict)
    """Named fault -> how much of what it does to these tokens the engine shows: 0 nothing, 1 all of it."""
    sampler: dict[str, float] = msgspec.field(default_factory=dict)
    """Tests of sampled output: standard deviations off, counts, log-likelihood ratios of named faults."""
    power: str = ""
    """What the verdict would have seen with 95 %, and what it could not have seen."""
    first_bad_position: int | None = None
    """Output position from which the output fails, when only a later part of it does."""
    populations: tuple[Population, ...] = ()
    """Tokens that a cache or a draft had a hand in, judged beside the others; () where there are none."""
    alarms: tuple[str, ...] = ()
    """Findings that need no reference: repetition, gibberish, NaN, premature end."""


class Tail(Noun):
    """What may be said of a latency's percentiles from all requests of a row, seconds."""

    metric: str
    """ttft, tpot, e2el; due_ttft and due_e2el from the due time in open loop."""
    asked: float
    """Percentile that was asked for, 0 .. 1."""
    share: float
    """Highest percentile that this many requests certify, at most the asked one; 0 = not even the median."""
    value: float | None
    bound: float | None
    """99 % upper confidence bound of the percentile `share`."""
    num: int
    """Requests."""
    num_effective: float
    """Requests that they are worth: those that were slow together count less."""
    pooled: bool
    """False: restarts differ by more than chance; `value` is their median, `bound` that of the slowest."""
    needed: int
    """Requests more that the asked percentile needs, over all restarts; 0 = it is certified."""


class Within(NamedTuple):
    """How many requests of a row met every limit of the SLO at once, failed ones counted as not."""

    asked: float
    """Share that has to, 0 .. 1."""
    share: float
    """Share that did."""
    num: int
    """Requests."""
    certified: bool
    """So many met them that the asked share is shown with 99 % confidence."""


class Silence(NamedTuple):
    """One moment in which no stream got a chunk although several waited."""

    at_s: float
    """Since the trial's start."""
    length_s: float
    at_tokens: float
    """Output tokens, of all streams, that had come by then."""


class Silences(Noun):
    """Those of one trial."""

    threshold_s: float
    """Shorter ones are steps."""
    total_s: float
    share: float
    """Of the time from the first request sent to the last chunk."""
    median_s: float
    prefill_share: float = 0.0
    """The same of stops through which a request waited for its first chunk; they are not in `found`."""
    period_s: float | None = None
    """Median distance of neighbours; None where distances are not alike, or are few."""
    period_tokens: float | None = None
    found: tuple[Silence, ...] = ()


class Ranked(Noun):
    """A figure that a row is ranked by, its mean over restarts."""

    title: str
    value: float
    """Latencies in seconds, rates in requests/s, shares 0 .. 1."""
    lower_is_better: bool = False


class Reuse(Noun):
    """What caches and drafts really did in a row, told twice: by the answers and by the engine's counters."""

    hit_share: float | None = None
    """Prompt tokens from a cache / prompt tokens, by the answers' usage; None where no answer told any."""
    hit_share_counted: float | None = None
    """The same by the engine's own counters."""
    hit_share_ideal: float | None = None
    """What a cache that forgets nothing would reuse of this workload; None where it shares nothing."""
    acceptance_length: float | None = None
    """Tokens per verification, the engine's own one included, by its counters."""
    acceptance_length_told: float | None = None
    """The same by the answers: what they say of themselves, else their chunks of several tokens."""
    acceptance_rate: float | None = None
    """Draft tokens accepted / proposed."""
    rate_at: tuple[float, ...] = ()
    """Share of verifications that accepted the draft's token at each position."""
    doubt: str = ""
    """Which of the two tellings disagree by over 1 %; "" when they agree."""


class Row(Noun):
    """One line of the table: a variant at a scenario, over all restarts."""

    variant: str
    scenario: str
    status: Literal["done", "failed", "skipped", "interrupted"]
    reason: str = ""
    num_gpus: int = 0
    metrics: Metrics | None = None
    """Latencies: the median of the restarts' own; failures: all; the rest: of the restart of median rate."""
    output_throughput: Interval | None = None
    """Of the plateau where every ranked row of the scenario has one, else of the whole window."""
    plateau: bool | None = None
    """Closed loop: whether every valid trial of the scenario has one; its rates then leave out the ramps."""
    ranked_by: tuple[Ranked, ...] = ()
    """Where the load fixes the throughput: what decides instead, the first first; () = output tok/s."""
    tails: tuple[Tail, ...] = ()
    within: Within | None = None
    """None without an SLO."""
    silences: Silences | None = None
    """Of the median restart."""
    agreement: Agreement | None = None
    reuse: Reuse | None = None
    """Over all restarts; None where nothing was cached or drafted."""
    energy: Energy | None = None
    """Of the median restart; None where no accelerator showed its power."""
    cost_per_million_tokens: float | None = None
    """Price of 1e6 output tokens, where the recipe gives a price per accelerator and hour."""
    attested: bool = False
    invalid: str = ""
    """Why it is not ranked, "" when it is."""
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        """Its output failed the agreement test: the numbers are shown struck out."""
        return self.agreement is not None and self.agreement.verdict == "FAIL"

    @property
    def rankable(self) -> bool:
        """Done, valid, with a throughput, and not known to answer wrongly."""
        rate = self.output_throughput
        counts = self.status == "done" and not self.invalid and not self.wrong
        return counts and rate is not None and rate.mean > 0


class Contrast(Noun):
    """variant against baseline at one scenario, in one figure."""

    scenario: str
    baseline: str
    variant: str
    metric: str = "output_throughput"
    """output_throughput (per GPU), speed_per_user, due_ttft_p50, tpot_p50, due_e2el_p50, goodput;

    goodput_rate of a search; exploratory: ttft_p50, e2el_p50, p90, p95, p99 where certified, energy.
    """
    title: str = "output tok/s"
    """The figure in words."""
    lower_is_better: bool = False
    primary: bool = True
    """One of the figures that the load asks for; the others are exploratory and corrected for nothing."""
    ratio: Interval | None = None
    """variant / baseline with its 95 % interval over restarts, not corrected."""
    p_value: float | None = None
    """Of "the ratio is 1"; Holm-corrected over all primary contrasts of the run; None without an interval."""
    detectable: float | None = None
    """Smallest ratio above 1 (or 1 / it, below) that would have been decided four times in five."""
    spread: float | None = None
    """Standard deviation of the log ratio between restarts, as the interval has it."""
    num_cells: int = 1
    """Cells of the run that the spread was learned from."""
    num_hosts: int = 1
    """Hosts that the interval is over; 1 = it holds for one host, whose restarts it is over."""
    words: str = ""


class Ran(Noun):
    """What stood behind a variant's name in one run."""

    variant: str
    engine: str
    engine_version: str = ""
    """As the running engine showed it; "" when it never did."""
    image: str = ""
    image_digest: str = ""
    weights: str = ""
    """Name, revision and sha256 of what was loaded, in words; "" when not known."""
    commands: tuple[str, ...] = ()
    """Exactly what was launched, as a person would type it in the repository's root, secrets left out."""
    num_launches: int = 1


class LoggedLabel(Noun):
    """What a variant's name stood for in one run, as its engine showed it."""

    variant: str
    engine: str
    model: str = ""
    """What resolved to the weights; "" = not known."""
    launcher: str = ""
    engine_version: str = ""
    image: str = ""
    proven: bool = False
    """Every claim held in every launch."""
    claims: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Settings that the name claims, as they were shown; the version is no setting."""
    shown: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """The other settings that the engine showed."""
    cpu_mb_s: float = 0.0
    """The host's own speed just before its launches, as Calibration has it, median; 0 = not measured."""
    memory_gb_s: float = 0.0


class Difference(Noun):
    """One line of the fairness ledger: a setting on which compared engines differ."""

    field: str
    values: dict[str, Scalar]
    reason: str = "unexplained"


class Comparison(Noun):
    """comparison.json: everything the table and report are made of."""

    run_id: str
    question: str
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...] = ()
    differences: tuple[Difference, ...] = ()
    opinions: tuple[SecondOpinion, ...] = ()
    limits: tuple[GoodputLimit, ...] = ()
    ran: tuple[Ran, ...] = ()
    labels: tuple[LoggedLabel, ...] = ()
    """What the names stood for, as the log keeps it."""
    notes: tuple[str, ...] = ()
    host: str = ""
    """Hash of the host's name; "" = several, or not known."""
    schema_version: int = SCHEMA_VERSION


# --- inside the mixture of experts -------------------------------------------------------------


class LayerBalance(Noun):
    """How one MoE layer spread tokens over its experts in one phase (all, prefill, decode)."""

    layer: int
    phase: str
    num_tokens: int
    counts: tuple[int, ...]
    """Routed (token, slot) pairs per expert."""
    max_over_mean: float
    """Busiest expert over the mean: 1 = even."""
    gini: float
    entropy: float
    """Of the expert shares, relative to uniform: 1 = even, 0 = one expert takes all."""
    hot_experts: tuple[int, ...] = ()
    """Experts with at least twice the even share, hottest first."""
    unused_experts: int = 0
    rank_max_over_mean: dict[str, float] = msgspec.field(default_factory=dict)
    """EP size -> tokens of the busiest rank over the mean, each token once per rank."""
    rank_tokens: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    """EP size -> tokens each rank would receive, each token once per rank."""


class RoutingDistance(Noun):
    """Jensen-Shannon distance between two logs at one layer: 0 = same shares, 1 = disjoint."""

    layer: int
    phase: str
    distance: float
    low: float
    high: float
    """95 % bootstrap interval over requests."""
    floor: float
    """95th percentile of the distance between random halves of the pooled requests."""
    num_requests: tuple[int, int] = (0, 0)

    @property
    def differs(self) -> bool:
        """Whether the logs differ by more than sampling explains."""
        return self.distance > self.floor


class RoutingReport(Noun):
    """moe.json: what a routing log tells."""

    source: str
    engine: str
    num_experts: int
    top_k: int
    num_requests: int
    layers: tuple[LayerBalance, ...]
    distances: tuple[RoutingDistance, ...] = ()
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    """dropped_tokens, unseen_tokens, warmup_tokens ... as the writer counted them."""
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


class Gpu(Noun):
    """One accelerator as its driver shows it."""

    index: int
    name: str
    memory_gb: float
    driver: str = ""


class Signature(Noun):
    """One known way to fail: a table of engines/signatures.toml."""

    name: str
    pattern: str
    """Regular expression, searched in each log line."""
    cause: str
    fix: str
    source: str
    context: tuple[str, ...] = ()
    """Regular expressions that must also be found somewhere in the log."""
    wrapper: bool = False
    """The line only says that something else failed."""
    weak: bool = False
    """Counts only when nothing else matched."""
    harmless: bool = False
    """The line looks like a failure and is none."""


class Cause(Noun):
    """Why an engine failed, with the log line that shows it."""

    name: str
    cause: str
    fix: str
    line: str
    source: str = ""


class Machine(Noun):
    """What decides whether a variant can run here."""

    accelerator: Accelerator = "cpu"
    gpus: tuple[Gpu, ...] = ()
    docker: str = ""
    """Version of the Docker Engine that answers; "" when none does."""
    images: tuple[str, ...] = ()
    """Images the Docker Engine holds, as name:tag."""
    importable: tuple[str, ...] = ()
    """Engine packages that `python3` on PATH can import, e.g. "vllm"."""
    environments: tuple[str, ...] = ()
    """Process environments described by engines/<name>.requirements.txt."""
    free_disk_gb: float = 0.0
    """Where the repository lies."""
    num_cpus: int = 0
    """Cores that this process may use; 0 = not known."""


class ParseResult(Noun):
    """What an engine's own parser said of one rendered command."""

    variant: str
    ok: bool
    parser: str
    """Which parser: "vllm 0.32.0 (environment vllm-cpu)", "table of documented options 1.3.0rc14" ..."""
    exact: bool = True
    """The parser is of the very version the variant is pinned to."""
    error: str = ""
    """Names the flag and the version."""
    note: str = ""


class Environment(Noun):
    """environment.json: the machine and software a run was made on."""

    started_at: str
    harness_commit: str
    harness_dirty: bool
    hostname_hash: str
    """sha256 prefix of the host name: tells machines apart without naming them."""
    os: str
    kernel: str
    python: str
    cpu_model: str
    num_cpus: int
    memory_gb: float
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    accelerator: Accelerator = "cpu"
    docker: str = ""
    weights: dict[str, str] = msgspec.field(default_factory=dict)
    """Weights file name -> sha256, per model: "<alias>/<file>"."""
    image_digests: dict[str, str] = msgspec.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


# --- telemetry ---------------------------------------------------------------------------------


class GpuSample(Noun):
    """One accelerator at one moment; None = its driver does not show it."""

    index: int
    power_w: float | None = None
    energy_j: float | None = None
    """The driver's own energy counter since it was loaded."""
    sm_clock_mhz: float | None = None
    memory_used_gb: float | None = None
    temperature_c: float | None = None
    utilization: float | None = None
    """Share of the last sampling period in which something ran, 0 to 1."""
    throttle: tuple[str, ...] = ()
    """Why the clock is held down: power, thermal, hardware."""


class Sample(Noun):
    """One line of telemetry.jsonl, taken once a second from the start of the timed part."""

    at_s: float
    """Seconds since the trial's start."""
    engine: dict[str, float] = msgspec.field(default_factory=dict)
    """The engine's own counters and gauges, canonical names; {} when it did not answer."""
    gpus: tuple[GpuSample, ...] = ()


class Calibration(Noun):
    """calibration.json: how fast this host was just before a launch, by a short fixed piece of work."""

    taken_at: str
    """Wall clock, ISO 8601 UTC."""
    cpu_mb_s: float
    """sha256 on one core, the best of several tries."""
    memory_gb_s: float
    """Copy of memory, read + written bytes, the best of several tries."""
    load_average: float
    """Runnable processes over the last minute, as the kernel counts them."""
    gpus: tuple[GpuSample, ...] = ()
    """Idle accelerators: clocks, temperature, memory others hold, reasons for throttling."""
    gpu_tflops: tuple[float, ...] = ()
    """bf16 matrix products on each accelerator of the launch, 10^12 operations/s, best of several tries."""
    gpu_device: str = ""
    gpu_skipped: str = ""
    """Why there are no gpu_tflops."""
    waited_s: float = 0.0
    """Waited for memory that the engine before still held."""
    gpus_unread: str = ""
    """Why the accelerators' sensors cannot be read, "" when they can or there are none."""


class Energy(Noun):
    """What the accelerators of one trial drew over its window, by trapezoid of 1 Hz power samples."""

    duration_s: float
    mean_power_w: float
    energy_j: float
    counter_j: float | None = None
    """The same by the driver's energy counters, where it has them."""
    joules_per_output_token: float | None = None
    throttled: tuple[str, ...] = ()
    """Reasons seen in the window."""
    utilization: float | None = None
    """Mean share of the time in which some kernel ran, 0..1, as the driver tells it."""
    invalid: str = ""
    """Why the figures must not be published, "" when they may."""


# --- results of other tools --------------------------------------------------------------------


class Imported(Noun):
    """One measurement made by another tool, in this harness's terms."""

    tool: str
    file: str
    """Name of the file it came from."""
    variant: str
    scenario: str
    """Shape and load: 1000-2000@c8."""
    metrics: Metrics
    """Latencies that the tool defines otherwise are mapped, or left out."""
    tool_version: str = ""
    """"" = its files do not say."""
    model: str = ""
    date: str = ""
    num_gpus: int = 0
    """0 = its files do not say."""
    incomparable: str = ""
    """Why its throughput must not be compared with others, "" when it may."""
    caveats: tuple[str, ...] = ()
    records: tuple[RequestRecord, ...] = ()
    """Where the file holds single requests: the metrics are then recomputed from these."""


class Opinion(Noun):
    """opinions/<client>.json of a trial: what another tool measured there after us, or why it did not."""

    client: str
    imported: Imported | None = None
    problem: str = ""


class GoodputLimit(Noun):
    """Largest request rate at which one variant meets the recipe's SLO, over all restarts. Requests/s."""

    variant: str
    scenario: str
    rate: float
    """Mean over restarts of the largest rate that passed; 0 when none did."""
    low: float
    high: float | None
    """The true limit lies in low .. high of every restart; None = no rate failed."""
    num_trials: int
    num_restarts: int
    words: str = ""


class SecondOpinion(Noun):
    """Another tool's figures beside those of our own trial: never merged with them, never ranked."""

    variant: str
    scenario: str
    restart: int
    client: str
    tool_version: str = ""
    ours: Metrics | None = None
    theirs: Metrics | None = None
    differences: dict[str, float] = msgspec.field(default_factory=dict)
    """Figure -> (theirs / ours - 1) x 100, percent; figures that one of the two lacks are left out."""
    caveats: tuple[str, ...] = ()
    problem: str = ""
    """Why there are no figures; "" when there are."""


# --- the experiment log ------------------------------------------------------------------------


class LoggedRow(Noun):
    """A row of the table as the log remembers it, so that history needs no results folder."""

    variant: str
    scenario: str
    status: str
    verdict: str = ""
    """"" = not verified."""
    invalid: str = ""
    num_gpus: int = 0
    output_throughput: Interval | None = None
    ttft_p50_s: float | None = None
    tpot_p50_s: float | None = None

    @property
    def rankable(self) -> bool:
        """As Row's: done, valid, with a throughput, and not known to answer wrongly."""
        rate = self.output_throughput
        counts = self.status == "done" and not self.invalid and self.verdict != "FAIL"
        return counts and rate is not None and rate.mean > 0


class LoggedMachine(Noun):
    """What a run was made on: hosts of one kind share a history."""

    cpu_model: str
    num_cpus: int
    accelerators: tuple[str, ...] = ()
    driver: str = ""
    os: str = ""
    docker: str = ""

    @property
    def kind(self) -> str:
        """Processor, cores, accelerators."""
        names = dict.fromkeys(self.accelerators)
        gpus = [f"{self.accelerators.count(name)}x {name}" for name in names]
        return "; ".join((f"{self.cpu_model}, {self.num_cpus} cores", *gpus))


class LogFacts(Noun):
    """The machine-readable part of an EXPERIMENT_LOG.md entry: enough to replay it and to compare with it."""

    run_id: str
    date: str
    """Start of the run, ISO 8601 UTC."""
    commit: str
    host: str
    recipe: Recipe
    """Without secrets."""
    rows: tuple[LoggedRow, ...] = ()
    image_digests: dict[str, str] = msgspec.field(default_factory=dict)
    bundle: str = ""
    """sha256 of the result bundle, see harness/reporting/bundle.py."""
    seal: str = ""
    """sha256 of the seal that this entry closes; "" = not sealed."""
    kept: dict[str, str] = msgspec.field(default_factory=dict)
    """Sealed runs: file -> sha256 of what was measured."""
    labels: tuple[LoggedLabel, ...] = ()
    """() in entries of before it was logged: kept results say it."""
    machine: LoggedMachine | None = None
    schema_version: int = SCHEMA_VERSION
