"""Text that every Python installation carries, as modules of documents."""

import ast
import fnmatch
import itertools
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EOS, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

FOREIGN_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Made at installation (they hold the machine's own paths), or another form of topic_modules().
FOREIGN_FILES = ("_sysconfigdata*", "sitecustomize.py", "usercustomize.py", "topics.py")


@dataclass(frozen=True)
class Module:
    """One source file, language topic or licence: held out whole or not at all."""

    name: str
    documents: tuple[str, ...]


def stdlib_folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def turn(role: str, content: str) -> str:
    """One message as the chat template renders it."""
    return f"{TURN}{role}\n{content}{END_OF_TURN}\n"


def chats(name: str, source: str) -> Iterator[str]:
    """Each docstring as a question and its answer, so that the chat template and EOS are learnt."""
    dotted = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            yield turn("user", f"What does {dotted}.{node.name} do?") + turn("assistant", doc)


def is_foreign(path: Path) -> bool:
    """Whether a path relative to the library is not part of what Python itself ships."""
    return bool(FOREIGN_FOLDERS & set(path.parts)) or any(
        fnmatch.fnmatch(path.name, pattern) for pattern in FOREIGN_FILES
    )


def source_modules(stdlib: Path) -> Iterator[Module]:
    """The library's own *.py files; those that are not UTF-8 or do not parse are left out."""
    for path in stdlib.rglob("*.py"):
        relative = path.relative_to(stdlib)
        if is_foreign(relative):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            documents = (source, *chats(relative.as_posix(), source))
        except (UnicodeDecodeError, SyntaxError):
            continue
        yield Module(relative.as_posix(), documents)


def topic_modules() -> Iterator[Module]:
    """Python's language reference as pydoc carries it; some packagers leave it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name, text in topics.items():
        yield Module(f"topics/{name}", (text,))


def licence_modules(stdlib: Path) -> Iterator[Module]:
    """Python's licence, where the installation has it beside the library."""
    path = stdlib / "LICENSE.txt"
    if path.is_file():
        yield Module(path.name, (path.read_text(encoding="utf-8"),))


def read_corpus(patterns: tuple[str, ...], hold_out_every: int) -> tuple[list[Module], list[Module]]:
    """(trained, held out) modules, each sorted by name; held out may be empty."""
    stdlib = stdlib_folder()
    found = itertools.chain(source_modules(stdlib), topic_modules(), licence_modules(stdlib))
    wanted = [m for m in found if any(fnmatch.fnmatch(m.name, pattern) for pattern in patterns)]
    wanted.sort(key=lambda module: module.name)
    held = wanted[hold_out_every // 2 :: hold_out_every]
    return [module for module in wanted if module not in held], held
