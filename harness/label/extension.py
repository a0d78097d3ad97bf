"""Variants that extend another of their file and say only what differs. Pure.

`extends = "NAME"` takes all it has but its source; tables (env, options, parallel, expect, reasons) are
merged entry by entry; `more_args` stand behind the inherited args; `without = ["reasons.dtype", "env"]`
leaves inherited entries or whole fields out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import InputError

_OWN = ("source", "extends", "without", "more_args")
"""Fields that a variant says itself and hands on to nobody."""


def whole(name: str, tables: Mapping[str, Any], file: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A variant's table with everything that it inherits.

    Raises InputError for a name that is no table, a circle, or something left out that nobody said.
    """
    table = tables.get(name)
    if not isinstance(table, dict):
        raise InputError(f"{file}: {name} is not a table; write [{name}].")
    if name in seen:
        raise InputError(f"{file}: {' extends '.join((*seen, name))}; one of them must stand alone.")
    own = {field: value for field, value in table.items() if field not in _OWN[1:]}
    if "extends" not in table:
        if unused := [field for field in ("without", "more_args") if field in table]:
            raise InputError(f"{file} [{name}]: {unused[0]} is for a variant that extends another.")
        return own
    inherited = whole(str(table["extends"]), tables, file, (*seen, name))
    inherited.pop("source", None)
    for path in table.get("without", ()):
        _leave_out(inherited, path, f"{file} [{name}]")
    args = [*inherited.get("args", ()), *table.get("more_args", ())]
    return {**inherited, "args": args, **{f: _merged(inherited.get(f), value) for f, value in own.items()}}


def _merged(inherited: Any, own: Any) -> Any:
    return {**inherited, **own} if isinstance(inherited, dict) and isinstance(own, dict) else own


def _leave_out(inherited: dict[str, Any], path: str, where: str) -> None:
    field, _, entry = str(path).partition(".")
    place = inherited.get(field) if entry else inherited
    if not isinstance(place, dict) or (entry or field) not in place:
        raise InputError(f"{where}: without names {path}, which is not inherited; take it out.")
    if entry:
        inherited[field] = {key: value for key, value in place.items() if key != entry}
    else:
        del inherited[field]
