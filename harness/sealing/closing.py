"""How a sealed run's entry closes its seal: what came of each promise, or that it was not finished."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness import store
from harness.numbers.verdicts import decided
from harness.schema import Comparison, Contrast
from harness.sealing import claims
from harness.sealing.nouns import SEAL_FILE, Closing, Seal, SealFile


def closing(run: Path, comparison: Comparison) -> Closing | None:
    """None for a run that was not sealed. Raises StoreError for files that cannot be read."""
    if not (run / SEAL_FILE).exists():
        return None
    sealed = store.read(run / SEAL_FILE, SealFile)
    seal, found = sealed.seal, claims.trials(run)
    lines = (
        _finish(seal, found),
        *(f"broken: {line}" for line in claims.breaches(run, seal)),
        *(outcome(c, seal.smallest) for c in comparison.contrasts if c.primary),
    )
    return Closing(sealed.sha256, claims.kept(run), lines)


def _finish(seal: Seal, found: claims.Found) -> str:
    ended = Counter(one.status for one in found.values())
    told = ", ".join(f"{num} {status}" for status, num in ended.items())
    missing = claims.missing(seal, found)
    if missing:
        return f"not finished: {told or 'nothing was measured'}; without a result: {', '.join(missing)}"
    rule = f"all {len(seal.trials)} sealed trials" if seal.trials else "repeats=auto"
    return f"closed: {rule}, {told}"


def outcome(contrast: Contrast, smallest: float) -> str:
    """What a sealed hypothesis came to, by its interval and the smallest difference of interest."""
    ratio, asked = contrast.ratio, f"{smallest:.0%}"
    what = f"{contrast.scenario}: {contrast.variant} against {contrast.baseline} in {contrast.title}"
    if ratio is None or ratio.num < 2:
        return f"{what}: open, there is no interval"
    least, most = 1.0 / (1.0 + smallest), 1.0 + smallest
    span = f"({ratio.low:.3f}-{ratio.high:.3f})"
    if (ratio.low > most or ratio.high < least) and decided(contrast):
        return f"{what}: differs by more than {asked} {span}"
    if least < ratio.low and ratio.high < most:
        return f"{what}: no difference of {asked} {span}"
    return f"{what}: open, {asked} is neither shown nor excluded {span}"
