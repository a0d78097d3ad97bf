"""What client processes and their coordinator tell each other: files in a folder that all their hosts see.

The coordinator writes `job` and `control`; process I writes `ready-I`, `share-I.jsonl`, `pulse-I`, `ended-I`.
A network file system shows new names late (a folder's attributes are cached for up to a minute), but a
file as it is when it is opened: so start and stop are lines of a file that is there from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

STOP = "stop"
_BEAT_S = 0.5


class ShareFolder:
    """Both sides' view of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job(self) -> Path:
        """What is to be done (shard.Job)."""
        return self.path / "job"

    def open(self) -> None:
        """Ready to be used."""
        (self.path / "control").touch()

    def tell(self, line: str) -> None:
        """A line to all processes: the start time first (seconds since 1970), then perhaps STOP."""
        with (self.path / "control").open("a") as file:
            file.write(line + "\n")

    def told(self) -> list[str]:
        """The lines so far, whole ones only."""
        return (self.path / "control").read_text().split("\n")[:-1]

    def publish(self, kind: str, index: int, content: bytes) -> None:
        """A file that is never seen half-written."""
        partial = self.path / f"{kind}-{index}.partial"
        partial.write_bytes(content)
        partial.replace(self.path / f"{kind}-{index}")

    def published(self, kind: str) -> list[Path]:
        """Whole files of one kind."""
        return sorted(path for path in self.path.glob(f"{kind}-*") if not path.suffix)

    def share(self, index: int) -> Path:
        """Records of process `index`, one JSON a line."""
        return self.path / f"share-{index}.jsonl"

    def counts(self) -> tuple[int, int]:
        """Requests in flight now and requests ended, of all processes together."""
        told = [path.read_bytes().split() for path in self.published("pulse")]
        whole = [(int(pair[0]), int(pair[1])) for pair in told if len(pair) == 2]
        return sum(pair[0] for pair in whole), sum(pair[1] for pair in whole)


class Beat:
    """A process's side while it fires: twice a second the records and the requests in flight go out, and a
    stop is heeded. In a thread: a folder that is slow to answer must not hold up the streams.
    """

    def __init__(self, folder: ShareFolder, index: int) -> None:
        self.stop = threading.Event()
        self.num_in_flight = self.num_ended = 0
        self._folder, self._index = folder, index
        self._over = threading.Event()

    def during(self, records: BinaryIO) -> Callable[[], None]:
        """Start; the returned function ends it."""
        thread = threading.Thread(target=self._run, args=(records,), daemon=True)
        thread.start()

        def end() -> None:
            self._over.set()
            thread.join()

        return end

    def _run(self, records: BinaryIO) -> None:
        try:
            with (self._folder.path / f"pulse-{self._index}").open("wb", buffering=0) as pulse:
                while not self._over.wait(_BEAT_S):
                    records.flush()
                    pulse.seek(0)
                    pulse.write(b"%9d %9d" % (self.num_in_flight, self.num_ended))
                    if STOP in self._folder.told():
                        self.stop.set()
        except OSError:  # the folder is gone, and with it whoever waits for records
            self.stop.set()
