"""What client processes and their coordinator tell each other: files in a folder that all their hosts see.

The coordinator writes `job` and `orders`; process I writes `ready-I`, `share-I.jsonl`, `pulse-I`, `ended-I`.
A network file system shows new names late (a folder's attributes are cached for up to a minute), but a
file as it is when it is opened: so start and stop are lines of a file that is there from the beginning.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.client.window import Pulse
from harness.errors import MachineError

STOP = "stop"
_BEAT_S = 0.25
_NOTHING = Pulse(num_in_flight=0, num_ended=0)


class ShareFolder:
    """Both sides' view of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def job(self, index: int | None = None) -> Path:
        """What is to be done (Job): by all, each taking its share, or by process `index` alone."""
        return self.path / ("job" if index is None else f"job-{index}")

    def share(self, index: int) -> Path:
        """Records of process `index`, one JSON a line."""
        return self.path / f"share-{index}.jsonl"

    @property
    def output(self) -> Path:
        """What the processes, and the command that places them, print."""
        return self.path / "output"

    def open(self) -> None:
        """Ready to be used."""
        (self.path / "orders").touch()

    def order(self, line: str) -> None:
        """A line to all processes: the start (see shard.start_ns) first, then perhaps STOP."""
        with (self.path / "orders").open("a") as file:
            file.write(line + "\n")

    def orders(self) -> list[str]:
        """The lines so far, whole ones only."""
        return (self.path / "orders").read_text().split("\n")[:-1]

    def publish(self, kind: str, index: int, content: bytes) -> None:
        """A file that is never seen half-written."""
        partial = self.path / f"{kind}-{index}.partial"
        partial.write_bytes(content)
        partial.replace(self.path / f"{kind}-{index}")

    def published(self, kind: str) -> list[Path]:
        """Whole files of one kind."""
        names = [name for name in os.listdir(self.path) if name.startswith(f"{kind}-") and "." not in name]
        return [self.path / name for name in sorted(names)]

    def pulse(self) -> Pulse:
        """How far all processes together are."""
        pairs = [path.read_bytes().split() for path in self.published("pulse")]
        counts = [(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2]
        return Pulse(num_in_flight=sum(c[0] for c in counts), num_ended=sum(c[1] for c in counts))


class Beat:
    """A process's side while it fires: a few times a second its records go to a file and, with a coordinator
    in `folder`, its pulse too; then a stop is heeded, and the end of whoever started this process.

    All of it in a thread: a disk that is slow to answer must not hold up the streams.
    """

    def __init__(self, records: Path, folder: ShareFolder | None = None, index: int = 0) -> None:
        self.stop = threading.Event()
        self.pulse = _NOTHING
        self._records, self._folder, self._index = records, folder, index
        self._lines: list[bytes] = []
        self._over = threading.Event()
        self._failure: OSError | None = None
        self._parent = os.getppid()

    @property
    def orphaned(self) -> bool:
        """Whoever started this process is gone."""
        return os.getppid() != self._parent

    def keep(self, line: bytes) -> None:
        """Have a record written."""
        self._lines.append(line)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """All that was kept is written when the block is over. Raises MachineError when it cannot be."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        if self._failure is not None:
            raise MachineError(
                f"records cannot be written to {self._records} ({self._failure.strerror}): free some space"
            ) from self._failure

    def _run(self) -> None:
        try:
            with self._records.open("wb") as records:
                over = False
                while not over:
                    over = self._over.wait(_BEAT_S)
                    self._write(records)
                    if self._folder is not None:
                        self._meet(self._folder)
        except OSError as error:
            self._failure = error
            self.stop.set()

    def _write(self, records: BinaryIO) -> None:
        num = len(self._lines)
        records.write(b"".join(self._lines[:num]))
        records.flush()
        del self._lines[:num]

    def _meet(self, folder: ShareFolder) -> None:
        file = os.open(folder.path / f"pulse-{self._index}", os.O_WRONLY | os.O_CREAT)
        try:  # in place and of one length: never seen half-written
            os.write(file, b"%9d %9d" % (self.pulse.num_in_flight, self.pulse.num_ended))
        finally:
            os.close(file)
        if self.orphaned or STOP in folder.orders():
            self.stop.set()
