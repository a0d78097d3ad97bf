"""Everything that stops the harness, as one small tree.

    HarnessError               one sentence: what, why, what to do next
    ├── InputError             the user's words: a name, a key, a recipe, a path
    ├── ModelError             weights, tokenizer or config missing, truncated or refused
    ├── MachineError           this machine: packages, disk, permissions, docker
    ├── LaunchError            the engine did not start, exited or never became ready
    ├── AttestationError       what runs cannot be asked or is not what the label says
    └── StoreError             results cannot be written or read

A failed *request* is data (RequestRecord.error), never an exception.
"""

from __future__ import annotations


class HarnessError(Exception):
    """One sentence for the user; `details` (log tail, matched evidence) may follow it."""

    exit_code = 1

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}\n{self.details}" if self.details else self.message


class InputError(HarnessError):
    """The user named something that does not exist or does not parse."""

    exit_code = 2


class ModelError(HarnessError):
    """Weights, tokenizer or config are missing, truncated or refused for this use."""

    exit_code = 2


class MachineError(HarnessError):
    """This machine lacks something the run needs."""


class LaunchError(HarnessError):
    """The engine exited, or was not ready in time; `details` hold cause, log tail and by-hand command."""


class AttestationError(HarnessError):
    """A running engine could not be asked what it runs."""


class StoreError(HarnessError):
    """A results file or folder cannot be written, or holds what this version cannot read."""
