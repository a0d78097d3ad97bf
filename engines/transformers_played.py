"""The oracle in the part of an engine: its model in another precision, or with a fault that has a name.

What rounding alone does to these tokens, and what a lost expert or wrong scales would do to them, is computed
on the model itself instead of assumed. Runs inside the engine's own environment (torch, transformers).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, DynamicCache

from engines.transformers_reading import Reader

FLATTER = 0.98
"""What the logits are multiplied by where a temperature or a scale is off: the fault that needs no pass."""
FLATTER_NAME = "logits 2 % flatter"
E4M3_MAX = 448.0
TOWARD_ZERO = "toward zero"
PRODUCTS = ("linear", "grouped_mm", "_grouped_mm")
"""Functions of torch whose first two arguments transformers multiplies: dense layers and experts."""
INT8_STEPS = 127


class Precision(NamedTuple):
    """What an engine computes in. `kv_cache_dtype` "" = that of the activations.

    `kv_rounding` "" = to the nearest, TOWARD_ZERO = digits that have no room are cut off. `products`: only
    what goes into matrix products is in `dtype`; their sums and all between them are in float32.
    """

    dtype: str
    kv_cache_dtype: str = ""
    kv_rounding: str = ""
    products: bool = False


class Rounded(DynamicCache):
    """Keys and values pass through float8 e4m3 with scale 1, as engines keep them by --kv-cache-dtype fp8."""

    rounding = ""

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        """What attention reads is what was kept."""
        kept = [e4m3(t, self.rounding).to(t.dtype) for t in (key_states, value_states)]
        return super().update(*kept, *args, **kwargs)


class Cut(Rounded):
    """The same by kernels that round toward zero."""

    rounding = TOWARD_ZERO


def e4m3(values: torch.Tensor, rounding: str = "") -> torch.Tensor:
    """As float8 e4m3, saturated: the nearest, ties to even, or the nearest that is no further from zero."""
    held = values.clamp(-E4M3_MAX, E4M3_MAX)
    nearest = held.to(torch.float8_e4m3fn)
    if rounding != TOWARD_ZERO:
        return nearest
    # Sign and magnitude: one less is the next value toward zero.
    beyond = nearest.to(values.dtype).abs() > held.abs()
    return (nearest.view(torch.uint8) - beyond.to(torch.uint8)).view(torch.float8_e4m3fn)


class _Products(TorchFunctionMode):
    """Both sides of every matrix product but the router's pass through a narrower dtype."""

    def __init__(self, model: Any, dtype: str) -> None:
        super().__init__()
        self._dtype = getattr(torch, dtype)
        self._routers = {id(router.weight) for router in _routers(model)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """torch's protocol: called in place of every function of its own."""
        if getattr(func, "__name__", "") in PRODUCTS and id(args[1]) not in self._routers:
            left, right = (t.to(self._dtype).to(t.dtype) for t in args[:2])
            args = (left, right, *args[2:])
        return func(*args, **(kwargs or {}))


class Parts:
    """The readers that one model offers; what takes memory of its own is made when first asked for."""

    def __init__(self, model: Any, path: str) -> None:
        self._model, self._path = model, path
        self._twins: dict[str, Any] = {}
        self._int8: Any = None

    def twin(self, precision: Precision) -> Reader:
        """The model as an engine of this precision computes it. Raises torch.OutOfMemoryError."""
        if precision.products:
            return Reader(self._model, during=lambda: _Products(self._model, precision.dtype))
        if precision.dtype not in self._twins:
            self._twins.clear()
            grouped = self._model.device.type == "cpu" or precision.dtype == "bfloat16"
            twin = AutoModelForCausalLM.from_pretrained(
                self._path,
                dtype=getattr(torch, precision.dtype),
                attn_implementation="sdpa",
                # As the oracle's: on GPUs the grouped expert kernel is bf16 only.
                **({} if grouped else {"experts_implementation": "eager"}),
            )
            self._twins[precision.dtype] = twin.eval().to(self._model.device)
        model = self._twins[precision.dtype]
        kept = _rounded(model, precision.kv_rounding) if precision.kv_cache_dtype else None
        return Reader(model, kept, _reduced_kernels)

    def faults(self, precision: Precision) -> dict[str, Reader]:
        """Name -> the full-precision model with that fault; without those that the precision declares."""
        readers = {"rms epsilon x 100": Reader(self._model, during=lambda: _scaled_epsilon(self._model))}
        if any(_routers(self._model)):
            readers["one expert fewer"] = Reader(self._model, during=lambda: _fewer_experts(self._model))
        if not precision.kv_cache_dtype:
            readers["fp8 keys and values"] = Reader(self._model, _rounded(self._model))
        readers["int8 weights"] = Reader(self._int8_model())
        return readers

    def _int8_model(self) -> Any:
        if self._int8 is None:
            self._int8 = copy.deepcopy(self._model)
            for name, weight in self._int8.named_parameters():
                if weight.dim() >= 2 and not any(
                    part in name for part in ("embed", "lm_head", "gate.weight")
                ):
                    weight.data = _int8(weight.data)
        return self._int8


def _rounded(model: Any, rounding: str = "") -> Callable[[], Any]:
    cache = Cut if rounding == TOWARD_ZERO else Rounded
    return lambda: cache(config=model.config)


def _int8(weight: torch.Tensor) -> torch.Tensor:
    """Symmetric, one scale per output channel: the plainest of the 8-bit schemes."""
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-12) / INT8_STEPS
    return (weight / scale).round() * scale


@contextmanager
def _reduced_kernels() -> Iterator[None]:
    """On a CPU, 16-bit products without oneDNN take five times as long; the oracle has switched it off."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = True
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _routers(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(getattr(module, "top_k", None), int) and module.top_k > 1:
            yield module


def _fewer_experts(model: Any) -> AbstractContextManager[None]:
    return _changed([(router, "top_k", router.top_k - 1) for router in _routers(model)])


def _scaled_epsilon(model: Any) -> AbstractContextManager[None]:
    norms = [m for m in model.modules() if hasattr(m, "variance_epsilon")]
    return _changed([(norm, "variance_epsilon", norm.variance_epsilon * 100) for norm in norms])


@contextmanager
def _changed(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
