"""Two visits' routing side by side, from what their moe.json kept: experts by load, decode, some layers.

python scripts/plot_routing.py OUT.png trained=RUN/VARIANT/r1/moe/moe.json dummy=.../moe.json [layers=0,5,15]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import msgspec
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.schema import LayerBalance, RoutingReport


def main() -> None:
    """Write the picture."""
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    layers = [int(number) for number in words.pop("layers", "0,5,10,15").split(",")]
    figure, axes = plt.subplots(1, len(layers), figsize=(3.2 * len(layers), 3.2), sharey=True, squeeze=False)
    for name, path in words.items():
        report = msgspec.json.decode(Path(path).read_bytes(), type=RoutingReport)
        for axis, layer in zip(axes[0], layers, strict=True):
            axis.plot(loads(report.layers, layer), label=f"{name}, {report.engine}")
    for axis, layer in zip(axes[0], layers, strict=True):
        axis.axhline(1.0, color="#555555", linewidth=0.8, linestyle="--")
        axis.set_title(f"layer {layer}", fontsize=9)
        axis.set_xlabel("experts, busiest first")
    axes[0, 0].set_ylabel("decode tokens / even share")
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=100)


def loads(layers: tuple[LayerBalance, ...], number: int) -> list[float]:
    """Decode tokens per expert over the mean, falling."""
    counts = next(np.asarray(b.counts) for b in layers if b.layer == number and b.phase == "decode")
    return sorted((counts / counts.mean()).tolist(), reverse=True)


if __name__ == "__main__":
    main()
