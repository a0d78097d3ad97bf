"""Foreign measurements that fall together without being repeats of one another stay apart. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness.schema import Imported

_NUMBER = re.compile(r"[-_.]r\d+$")


class Origin(NamedTuple):
    """Where a measurement comes from. Repeats have one origin: files <name>-r1, <name>-r2 of one folder."""

    folder: str
    name: str
    """The file's name without ending and without its number."""
    numbered: bool
    ending: str
    place: int
    """Which of the measurements that the file has of one variant and scenario, from 0."""

    def names(self) -> tuple[str, ...]:
        """What it may be called, the shortest first."""
        full = f"{self.folder}/{self.name}"
        exact = f"{full}-rN{self.ending}" if self.numbered else f"{full}{self.ending}"
        return self.name.rstrip("-_.") or self.name, self.name, full, exact


def origins(path: Path, found: Sequence[Imported]) -> list[Origin]:
    """The origin of each measurement of one file."""
    seen: Counter[tuple[str, str]] = Counter()
    result = []
    for one in found:
        key = (one.variant, one.scenario)
        name = _NUMBER.sub("", path.stem)
        result.append(Origin(path.parent.name, name, name != path.stem, path.suffix, seen[key]))
        seen[key] += 1
    return result


def apart(found: Sequence[Imported], of: Sequence[Origin]) -> tuple[list[Imported], list[str]]:
    """The measurements, each origin a variant of its own where one variant has several, and why in words."""
    groups: dict[tuple[str, str], dict[Origin, list[int]]] = {}
    for index, (one, origin) in enumerate(zip(found, of, strict=True)):
        groups.setdefault((one.scenario, one.variant), {}).setdefault(origin, []).append(index)
    result, told = list(found), []
    taken = set(groups)
    for (scenario, variant), members in groups.items():
        if len(members) == 1:
            continue
        names = _names(list(members), {v for s, v in taken if s == scenario} - {variant})
        for name, indices in zip(names, members.values(), strict=True):
            taken.add((scenario, name))
            for index in indices:
                result[index] = msgspec.structs.replace(found[index], variant=name)
        told.append(
            f"{len(members)} measurements of {scenario} all call themselves {variant} and are shown apart "
            f"({', '.join(names)}); number the files of restarts <name>-r1, <name>-r2 to have them averaged"
        )
    return result, told


def _names(origins: list[Origin], others: set[str]) -> list[str]:
    """One name each, none of them twice and none that another variant has."""
    num_files = len({origin._replace(place=0) for origin in origins})
    for level in range(len(origins[0].names())):
        names = [origin.names()[level] for origin in origins]
        if len(set(names)) == num_files and not others & set(names):
            break
    several = len(set(names)) < len(names)
    return [
        f"{name}#{origin.place + 1}" if several else name for name, origin in zip(names, origins, strict=True)
    ]
