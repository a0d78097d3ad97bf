"""The nouns of sealing. A seal stands in the log before the first launch, its entry closes it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from harness.schema import Noun, Recipe

SEAL_FILE = "seal.json"
"""In a sealed run's folder: SealFile."""
WEIGHTS_AFTER = "weights_after.json"
"""In a sealed run's folder: file -> sha256 of the weights when its last engine had stopped."""
ENGINE_FILES = "engine_files.json"
"""In a visit's folder: EngineFiles."""
_SHOWN = 6
"""Files that a row names."""
PATCHED = "patched"
"""The label of a row whose engine is not what its package published."""


class Hypothesis(Noun):
    """One thing that will be decided, said before anything is measured."""

    scenario: str
    figure: str
    better: str
    """more or less."""
    baseline: str
    variants: tuple[str, ...]


class Seal(Noun):
    """What a run promises before its first launch. Hashes are hex sha256."""

    run_id: str
    sealed_at: str
    """ISO 8601 UTC, by this machine's clock."""
    question: str
    recipe: Recipe
    """Without secrets; its seeds are 0: `seeds` commits to them."""
    matter: str
    """Hash of what is asked, seeds and numbers of requests left out: the same question has the same."""
    seeds: str
    """Hash over a salt, which seal.json of the run keeps, and the seeds."""
    hypotheses: tuple[Hypothesis, ...]
    expectation: str = ""
    smallest: float = 0.0
    """Smallest difference of interest, a share."""
    trials: tuple[str, ...] = ()
    """Folders of all trials to come; () where repeats is auto."""
    workloads: dict[str, str] = msgspec.field(default_factory=dict)
    """Scenario -> hash over all its requests and due times."""
    launches: dict[str, str] = msgspec.field(default_factory=dict)
    """Variant -> hash of its command, variables, option files and image."""
    weights: dict[str, str] = msgspec.field(default_factory=dict)
    engines: dict[str, str] = msgspec.field(default_factory=dict)
    """Variant -> hash over its installed packages, "" where nothing shows them."""
    images: dict[str, str] = msgspec.field(default_factory=dict)
    harness: str = ""
    """Hash of this harness's own source."""
    commit: str = ""
    host: str = ""
    signer: str = ""
    """Fingerprint of the key that is to sign the bundle; "" = not said."""
    before: str = ""
    """Hash over every entry and seal that stood in the log before this one."""


class SealFile(Noun):
    """seal.json: the seal letter by letter as the log has it, and what opens it."""

    text: str
    salt: str

    @property
    def sha256(self) -> str:
        """What its entry names it by."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def seal(self) -> Seal:
        """Raises msgspec.MsgspecError for a seal of another version."""
        return msgspec.json.decode(self.text, type=Seal)


class Closing(NamedTuple):
    """How an entry closes its run's seal."""

    seal: str
    """sha256 of the seal."""
    kept: dict[str, str]
    """File -> sha256 of what was measured: a later entry of the same run must show the same."""
    lines: tuple[str, ...]


class EngineFiles(Noun):
    """engine_files.json: the installed engine against what its packages published (RECORD)."""

    packages: dict[str, str] = msgspec.field(default_factory=dict)
    """Name and version -> sha256 of its RECORD."""
    num_files: int = 0
    """Files whose content was held against it."""
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Code that no package lists, this repository's own shims left out."""
    shims: tuple[str, ...] = ()
    unheld: tuple[str, ...] = ()
    """Packages without hashes of their files: nothing to hold them against."""
    image: str = ""
    """Digest of the image the engine ran in."""
    layers: tuple[str, ...] = ()
    whole: bool = False
    """All packages of its environment were looked at, not the engine's own alone."""
    skipped: str = ""
    """Why nothing was looked at."""

    @property
    def differences(self) -> tuple[str, ...]:
        """Every file that makes the engine another than the published one, with how."""
        kinds = (("changed", self.changed), ("missing", self.missing), ("added", self.added))
        return tuple(f"{name} ({kind})" for kind, names in kinds for name in names)

    @property
    def remark(self) -> str:
        """What a row says of it; "" when nothing differs."""
        files, more = self.differences[:_SHOWN], len(self.differences) - _SHOWN
        if not files:
            return ""
        shown = ", ".join(files) + (f" and {more} more" if more > 0 else "")
        return f"the installed engine is not the published one: {shown}; {ENGINE_FILES} lists all"

    @property
    def sha256(self) -> str:
        """Of what is installed; "" when that is not known."""
        facts = [*self.packages.items(), *self.differences, *self.layers]
        return "" if self.skipped else hashlib.sha256(repr(facts).encode()).hexdigest()
