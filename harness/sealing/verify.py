"""Checks a bundle of serving-harness without it: python3 verify.py [BUNDLE.tar.xz | FOLDER], Python 3.9 on.

Every file against MANIFEST, that against its SSH signature, the run against its seal, the table's figures
against the raw records; ends with 1 if anything is wrong. Take verify.py from where you trust it.
"""

# fmt: off
# mypy: ignore-errors
# ruff: noqa: B904, B905, E401, E501, E701, I001
try: import base64, hashlib, html, io, json, lzma, math, re, shutil, subprocess, sys, tarfile, tempfile
except ImportError as lack: raise SystemExit(f"{lack}: install all of Python's library (Debian: python3)")
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median, stdev
DERIVED = ("comparison.json", "report.md", "report.html", "columns.npz", "campaign.told.json", ".log")
RECOMPUTED = "output tok/s and its interval, TTFT p50, TPOT p50, failed, match, margin"
NAME, SPACE = "SSH SIGNATURE-----", "serving-harness-bundle"
def read(place):
    if place.is_dir():
        return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(place.read_bytes()))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
def sha(content):
    return hashlib.sha256(content).hexdigest()
def hashes(files):
    listed = dict(line.split("  ", 1)[::-1] for line in files["MANIFEST"].decode().split("\n")[:-1])
    for name in sorted({*listed, *files} - {"MANIFEST", "MANIFEST.sig"}):
        if name not in files or name not in listed:
            yield f"{name}: {'is missing' if name in listed else 'is in no line of MANIFEST'}"
        elif sha(files[name]) != listed[name]:
            yield f"{name}: is not what MANIFEST lists"
def signature(files, promised):
    """(what to say, problem). OpenSSH's PROTOCOL.sshsig: the public key is the first string of the blob."""
    if "MANIFEST.sig" not in files:
        return "NOT SIGNED: nobody vouches for this bundle", "MANIFEST.sig: is missing" * bool(promised)
    text = files["MANIFEST.sig"].decode("latin-1")
    blob = base64.b64decode("".join(text.split("\n")[1:-2]))
    key, packed = blob[14:][: int.from_bytes(blob[10:14], "big")], base64.b64encode(blob).decode()
    rows = (f"-----BEGIN {NAME}", re.sub("(.{70})(?=.)", r"\1\n", packed), f"-----END {NAME}", "")
    who = "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if who != (promised or who) or text != "\n".join(rows):
        return f"signed by {who}", f"MANIFEST.sig: is damaged, or not by the sealed key ({promised})"
    if not shutil.which("ssh-keygen"):
        return f"signature of {who} NOT CHECKED, ssh-keygen is not here; every hash was", ""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sig").write_bytes(files["MANIFEST.sig"])
        words = ["ssh-keygen", "-Y", "check-novalidate", "-n", SPACE, "-s", f"{folder}/sig"]
        bad = subprocess.run(words, input=files["MANIFEST"], capture_output=True).returncode
    return f"signed by {who}: is that whom you think?", "MANIFEST.sig: does not sign MANIFEST" * bool(bad)
def lines(files, name):
    found = files[name] if name in files else lzma.decompress(files.get(f"{name}.xz", lzma.compress(b"")))
    return [json.loads(line) for line in found.splitlines()]
def promises(files, trials, facts, seal):
    """What of the run is not what its entry in the log, and its seal, say."""
    kept = [n for n in sorted(files) if n.startswith("run/") and not n.endswith(DERIVED)]
    digest = sha("".join(f"{name[4:]} {sha(files[name])}\n" for name in kept).encode())
    if digest not in (facts["bundle"], *re.findall(r"results now: sha256 (\w+)", files["log.md"].decode())):
        yield "run: its files are not those that its entry in the log is of"
    for name, one in trials.items():
        trial, made = one["trial"], json.loads(files.get(f"{name}/workload.json", b"{}")).get("num_requests")
        num, load = len(lines(files, f"{name}/requests.jsonl")), trial["load"]
        if name.split("/")[1:3] != [trial["variant"], f"r{trial['restart']}"]:
            yield f"{name}: is {trial['variant']} r{trial['restart']}, put in the place of another"
        if one["status"] == "done" and num != made and not load["duration_s"] and not load.get("search"):
            yield f"{name}: {num} records of {made} requests"
        if seal and "" < one["started_at"] < seal["sealed_at"]:
            yield f"{name}: began before it was sealed"
    if seal:
        for spec in (facts["recipe"], *facts["recipe"]["workloads"]):
            spec["seed"] = 0
        changed = [key for key, value in facts["recipe"].items() if value != seal["recipe"][key]]
        yield from (f"run/recipe.toml: {key} is not what was sealed" for key in changed)
        yield from (f"run/{n}: was sealed and is missing" for n in seal["trials"] if f"run/{n}" not in trials)
        if seal["weights"] != json.loads(files["run/environment.json"])["weights"]:
            yield "run/environment.json: the weights are not those that were sealed"
def plateau(done):
    """Output tokens/s while 90 % of the most requests were in flight; done: (sent, first, last, tokens)."""
    events = sorted([(last, -1) for _, _, last, _ in done] + [(sent, 1) for sent, *_ in done])
    level = list(accumulate(step for _, step in events))
    up = [i for i, now in enumerate(level) if now >= 0.9 * max(level)]
    start, end = events[up[0]][0], events[min(up[-1] + 1, len(events) - 1)][0]
    share = [max(0, min(b, end) - max(a, start)) / max(b - a, 1e-9) for _, a, b, _ in done]
    whole = [b - a < 1e-9 and start <= a <= end for _, a, b, _ in done]
    return sum(one[3] * (1 if w else s) for one, w, s in zip(done, whole, share)) / (end - start)
def measured(files, name, steady):
    """(output tok/s, every TTFT, every TPOT, failed, all) of one trial's records."""
    done, failed, records = [], 0, lines(files, f"{name}/requests.jsonl")
    for r in records:
        at = r["content_at_s"] if "content_at_s" in r else [t / 1e6 for t in accumulate(r["content_gaps_us"])]
        good = not r["error"] and at == sorted(at) and (not at or at[0] >= r["sent_at_s"])
        failed += not good
        done += [(r["sent_at_s"], at[0], at[-1], r["output_len"])] if good and at else []
    span = max((d[2] for d in done), default=1) - min((d[0] for d in done), default=0)
    rate = plateau(done) if steady else sum(d[3] for d in done) / span
    tpot = [(last - first) / (n - 1) for _, first, last, n in done if n > 1]
    return rate, [d[1] - d[0] for d in done], tpot, failed, len(records)
def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
def student(freedom, num=20000):
    """The t within which 95 % lie: where t = sqrt(freedom) tan(a), the density is cos(a)^(freedom - 1)."""
    step = math.pi / 2 / num
    area = [0, *accumulate(math.cos((i + 0.5) * step) ** (freedom - 1) for i in range(num))]
    at, most = next((i, 0.95 * area[-1]) for i, below in enumerate(area) if below >= 0.95 * area[-1])
    return math.sqrt(freedom) * math.tan(step * (at - (area[at] - most) / (area[at] - area[at - 1])))
def figures(files, row, names):
    """(column, text) that a row must show, from the records and scores of its trials."""
    found = sorted((measured(files, name, row["plateau"]) for name in names), key=lambda one: one[0])
    _, ttft, tpot, failed, asked = zip(*(found if "over" in row else [found[len(found) // 2]]))
    rates, num, both = [one[0] for one in found], len(found), (("TTFT", ttft), ("TPOT", tpot))
    mean, half = fmean(rates), student(num - 1) * stdev(rates) / math.sqrt(num) if num > 1 else 0
    span = f" ({number(max(mean - half, 0))}-{number(mean + half)}, n={num})" if num > 1 else ""
    yield "output tok/s", number(mean) + span
    yield from ((f"{n} p50 ms", number(1e3 * median(map(median, v)))) for n, v in both if all(v))
    yield "failed", f"{sum(failed)}/{sum(asked)}"
    own = {(n, r["request_id"]): r["output_logprobs"] for n in names for r in lines(files, f"{n}/requests.jsonl")}
    scores = [{"emitted_logprob": own.get((n, s["request_id"])), **s} for n in names
              for s in lines(files, f"{n}/scores.jsonl") if s["token_ids"]]
    if scores and not any(s["retokenised"] or s["error"] for s in scores):
        same = {json.dumps([s["request_id"], s["token_ids"], s["emitted_logprob"]]): s for s in scores[::-1]}
        margins = [min(m, 10) for s in same.values() for m in s["margin"]]
        text = f"match {margins.count(0) / len(margins):.1%}", f"margin {fmean(margins):.3f}"
        yield from (("agreement", t) for t in text)
def check(files):
    """(what to print, problems)."""
    told, log = json.loads(files["told.json"]), files["log.md"].decode()
    seal = json.loads(json.loads(files["run/seal.json"])["text"]) if "run/seal.json" in files else {}
    trials = {n[:-11]: json.loads(files[n]) for n in sorted(files) if re.match("run(/[^/]+){3}/trial", n)}
    facts = [json.loads(text) for text in re.findall(r"^```json\n(.+)\n```$", log, re.M)]
    signed, problem = signature(files, seal.get("signer"))
    problems = [*hashes(files), *[problem] * bool(problem), *promises(files, trials, facts[-1], seal)]
    problems += ["run/seal.json: is not the seal that the log has"] * bool(seal and seal not in facts)
    for row in told["rows"]:
        ended = [n for n, one in trials.items() if one["status"] == "done"]
        names = [n for n in ended if n.split("/")[1::2] == [row["variant"], row["folder"]]]
        plain = [re.sub(r"\\(.)", r"\1", html.unescape(cell.strip("~"))) for cell in row["cells"]]
        for column, text in figures(files, row, names) if names else ():
            shown = plain[told["head"].index(column)]
            if text not in (shown, *shown.split(", ")) and not shown.startswith("-, "):
                problems.append(f"table: {row['variant']} {column} shows {shown}, its records give {text}")
    cells = [told["head"], told["rule"], *(row["cells"] for row in told["rows"])]
    table = [f"| {' | '.join(line)} |" for line in cells]
    rest = f"Recomputed from the records: {RECOMPUTED}. Only compared: every other figure, verdicts, words."
    return [*told["above"], *table, *told["below"], rest, f"{len(files)} files checked; {signed}"], problems
if __name__ == "__main__":
    try:
        text, wrong = check(read(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent))
    except Exception as error:  # whatever cannot even be read was changed
        text, wrong = [], [f"the bundle cannot be read: {type(error).__name__}: {error}"]
    print("\n".join([*text, *(f"WRONG: {line}" for line in wrong)] + ["All of it holds."] * (not wrong)))
    sys.exit(bool(wrong))
