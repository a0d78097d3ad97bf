"""What an opponent may try on a kept bundle of a sealed run, and that each attempt is named."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import store
from harness.errors import InputError
from harness.registry import ROOT
from harness.reporting import report
from harness.schema import Comparison
from harness.sealing import pack, signing, verify

KEPT = ROOT / "tests" / "golden" / "sealed"
RUN = KEPT / "results" / "sealed"
VARIANT = "run/mock"
TRIAL = f"{VARIANT}/r1/text-32-16@c4"
Files = dict[str, bytes]


def made_key(folder: Path, name: str) -> Path:
    """A key pair of nobody's."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
    subprocess.run(words, check=True)
    return folder / name


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that the forger owns: the one that the run's seal names."""
    return made_key(tmp_path_factory.mktemp("keys"), "own")


@pytest.fixture(scope="module")
def kept(key: Path) -> Iterator[Files]:
    """The bundle of the kept run, as if its seal had named this key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_LOG", str(KEPT / "LOG.md"))
        files = pack.contents(RUN)
    seal = json.loads(files["run/seal.json"])
    old = json.loads(seal["text"])["signer"]
    own = signing.fingerprint_of_key(str(key))
    files["run/seal.json"] = files["run/seal.json"].replace(old.encode(), own.encode())
    files["log.md"] = files["log.md"].replace(old.encode(), own.encode())
    yield forged(files, key)


def signed(files: Files, key: Path) -> Files:
    """The same under a new manifest and signature."""
    bare = {name: content for name, content in files.items() if not name.startswith("MANIFEST")}
    bare["MANIFEST"] = pack.manifest(bare)
    return {**bare, "MANIFEST.sig": signing.sign(bare["MANIFEST"], str(key))}


def forged(files: Files, key: Path) -> Files:
    """The same with all hashes made anew, that of the log's entry too: what the owner of the key can do."""
    evidence = sorted(n for n in files if n.startswith("run/") and not n.endswith(verify.DERIVED))
    rows = (f"{name[4:]} {hashlib.sha256(files[name]).hexdigest()}\n" for name in evidence)
    digest = hashlib.sha256("".join(rows).encode()).hexdigest()
    text = re.sub(rb'"bundle":"\w+"', b'"bundle":"%s"' % digest.encode(), files["log.md"])
    return signed({**files, "log.md": text}, key)


def problems(files: Files) -> str:
    """All that verify.py finds wrong."""
    return "\n".join(verify.check(files)[1])


def lines_of(files: Files, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in lzma.decompress(files[f"{name}.jsonl.xz"]).splitlines()]


def with_lines(files: Files, name: str, lines: list[dict[str, object]]) -> Files:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return {**files, f"{name}.jsonl.xz": lzma.compress(text.encode())}


def edited_record(files: Files) -> Files:
    lines = lines_of(files, f"{TRIAL}/requests")
    lines[3]["output_len"] = 900
    return with_lines(files, f"{TRIAL}/requests", lines)


def slowest_dropped(files: Files) -> Files:
    lines = lines_of(files, f"{TRIAL}/requests")
    lines.remove(max(lines, key=lambda one: sum(one["content_gaps_us"]) / 1e6 - one["sent_at_s"]))  # type: ignore
    return with_lines(files, f"{TRIAL}/requests", lines)


def restarts_swapped(files: Files) -> Files:
    other = {"r1": "r2", "r2": "r1"}
    return {
        re.sub(rf"^({VARIANT})/(r1|r2)/", lambda m: f"{m[1]}/{other[m[2]]}/", n): c for n, c in files.items()
    }


def scores_replaced(files: Files) -> Files:
    lines = lines_of(files, f"{TRIAL}/scores")
    for line in lines:
        line["margin"] = [0.5] * len(line["margin"])  # type: ignore[arg-type]
    return with_lines(files, f"{TRIAL}/scores", lines)


def recipe_changed(files: Files) -> Files:
    last = files["log.md"].rindex(b'"verify_requests":')
    text = re.sub(rb'"verify_requests":\d+', b'"verify_requests":1', files["log.md"][last:], count=1)
    return {**files, "log.md": files["log.md"][:last] + text}


def weights_swapped(files: Files) -> Files:
    environment = json.loads(files["run/environment.json"])
    environment["weights"]["tiny-moe/model.safetensors"] = "0" * 64
    return {**files, "run/environment.json": json.dumps(environment).encode()}


def trial_deleted(files: Files) -> Files:
    return {name: content for name, content in files.items() if not name.startswith(f"{VARIANT}/r3/")}


def cell_changed(files: Files) -> Files:
    told = json.loads(files["told.json"])
    place = told["head"].index("output tok/s")
    told["rows"][0]["cells"][place] = "9" + told["rows"][0]["cells"][place]
    return {**files, "told.json": json.dumps(told).encode()}


def seal_taken_elsewhere(files: Files) -> Files:
    own = json.loads(files["run/seal.json"])
    own["text"] = own["text"].replace("smallest", "smallest ", 0).replace('"smallest":0.05', '"smallest":0.5')
    return {**files, "run/seal.json": json.dumps(own).encode()}


def sealed_afterwards(files: Files) -> Files:
    then = re.search(rb"sealed_at\W+(20[\dT:-]+Z)", files["log.md"])
    assert then
    later = b"2036" + then[1][4:]
    return {**files, **{n: files[n].replace(then[1], later) for n in ("log.md", "run/seal.json")}}


OWNERS: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a record is edited": (edited_record, "mock output tok/s shows"),
    "the slowest request is dropped": (slowest_dropped, "23 records of 24 requests"),
    "restarts are reordered": (restarts_swapped, "r1/text-32-16@c4: is mock r2, put in the place of"),
    "scores are replaced": (scores_replaced, "mock agreement shows"),
    "the recipe is changed afterwards": (recipe_changed, "verify_requests is not what was sealed"),
    "weights are swapped": (weights_swapped, "the weights are not those that were sealed"),
    "a trial is deleted": (trial_deleted, "mock/r3/text-32-16@c4: was sealed and is missing"),
    "a figure of the table is improved": (cell_changed, "output tok/s shows 9"),
    "another seal is put in": (seal_taken_elsewhere, "is not the seal that the log has"),
    "the seal is made after the run": (sealed_afterwards, "began before it was sealed"),
}
"""Done by the owner of the key, who makes every hash and the signature anew."""


@pytest.mark.parametrize("what", OWNERS)
def test_what_the_owner_of_the_key_changes_is_named(what: str, kept: Files, key: Path) -> None:
    change, named = OWNERS[what]
    assert problems(kept) == ""
    assert named in problems(forged(change(kept), key))


@pytest.mark.parametrize("what", OWNERS)
def test_what_anybody_else_changes_is_named_by_its_file(what: str, kept: Files) -> None:
    changed = OWNERS[what][0](kept)
    names = {n for n in {*changed, *kept} if changed.get(n) != kept.get(n)}
    found = list(verify.hashes(changed))
    assert names and {line.split(": ")[0] for line in found} == names


def test_evidence_that_the_published_entry_is_not_of_is_named(kept: Files, key: Path) -> None:
    forged_environment = (
        kept["run/environment.json"].replace(b"2 cores", b"").replace(b'"num_cpus": 2', b'"num_cpus": 64')
    )
    changed = signed({**kept, "run/environment.json": forged_environment}, key)
    assert changed["run/environment.json"] != kept["run/environment.json"]
    assert "its files are not those that its entry in the log is of" in problems(changed)


def test_another_key_and_a_missing_signature_are_named(kept: Files, tmp_path: Path) -> None:
    assert "not by the sealed key" in problems(signed(kept, made_key(tmp_path, "other")))
    unsigned = {name: content for name, content in kept.items() if name != "MANIFEST.sig"}
    assert "MANIFEST.sig: is missing" in problems(unsigned)


def test_any_flipped_byte_of_any_file_is_found(kept: Files) -> None:
    rng = random.Random(7)
    for name, content in kept.items():
        for place in rng.sample(range(len(content)), min(len(content), 4)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            assert _found({**kept, name: bytes(flipped)}), (name, place)


def _found(files: Files) -> bool:
    """Whether hashes or signature show it; what cannot even be read shows itself."""
    try:
        return bool(list(verify.hashes(files))) or bool(verify.signature(files, "")[1])
    except (ValueError, KeyError):
        return True


def test_any_flipped_byte_of_the_one_file_is_found(kept: Files, tmp_path: Path) -> None:
    rng, path = random.Random(8), tmp_path / "run.bundle.tar.xz"
    small = {name: content for name, content in kept.items() if len(content) < 2000}
    pack.written(path, small)
    whole = path.read_bytes()
    assert verify.read(path) == small
    for place in [*rng.sample(range(len(whole)), 150), *range(12), *range(len(whole) - 12, len(whole))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises((lzma.LZMAError, EOFError)):
            verify.read(path)


def test_a_machine_with_only_python_prints_the_same_table_and_words(kept: Files, tmp_path: Path) -> None:
    bundle, script = tmp_path / "run.bundle.tar.xz", tmp_path / "verify.py"
    pack.written(bundle, kept)
    script.write_bytes(kept["verify.py"])
    words = [sys.executable, "-I", "-S", str(script), str(bundle)]
    done = subprocess.run(words, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True)
    comparison = store.read(RUN / "comparison.json", Comparison)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report.markdown_table(comparison) in done.stdout
    assert all(f"- {c.scenario}: {c.words}\n" in done.stdout for c in comparison.contrasts)
    assert "NOT CHECKED, ssh-keygen is not here" in done.stdout and "All of it holds." in done.stdout


def test_the_checking_program_is_small_and_knows_nothing_of_the_harness() -> None:
    text = Path(verify.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 150
    imported = set(re.findall(r"^(?:try: )?(?:import|from) (.+?)(?: import .*)?$", text, re.MULTILINE))
    names = {name.strip() for line in imported for name in line.split(",")}
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["20261121-030948-all", "20261121-h200-long-prompts"])
def test_figures_of_kept_runs_are_recomputed_to_the_last_digit(name: str) -> None:
    run = ROOT / "results" / name
    told = pack.summary(run, store.read(run / "comparison.json", Comparison))
    files = {f"run/{p.relative_to(run).as_posix()}": p.read_bytes() for p in run.rglob("*") if p.is_file()}
    trials = [n[:-11] for n in sorted(files) if n.endswith("/trial.json")]
    shown = 0
    for row in told["rows"]:  # type: ignore[attr-defined]
        names = [n for n in trials if n.split("/")[1::2] == [row["variant"], row["folder"]]]
        for column, text in verify.figures(files, row, names):  # type: ignore[no-untyped-call]
            cell = row["cells"][told["head"].index(column)].replace("\\", "")  # type: ignore[attr-defined]
            assert text in (cell, *cell.split(", ")) or cell.startswith("-, "), (row["variant"], column)
            shown += 1
    assert shown > 10


def test_no_bundle_leaves_with_a_key_in_it(kept: Files) -> None:
    planted = b"hf_" + b"Abcdefghij" * 3
    assert pack.blotted(b"token=" + planted + b" end") == b"token=*** end"
    with pytest.raises(InputError, match="holds what looks like a key"):
        pack.refused("mock/r1/evidence.json", b'{"a": "' + planted + b'"}')
    assert str(ROOT).encode() not in b"".join(c for n, c in kept.items() if n.endswith(".log"))
