"""The Hugging Face Hub as this machine sees it: cache, token, and which models it would hand over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import requests

from harness.errors import InputError
from harness.schema import Model, Noun

_TIMEOUT_S = 5.0
FACTS = ("config.json", "*.index.json", "tokenizer*", "vocab.json", "merges.txt", "*.jinja")
"""Files that say what a model is and how it counts tokens: a few MB, no weights."""


class Access(Noun):
    """What the Hub answers, asked without downloading anything."""

    state: str = ""
    """"" = it answers; else why it does not, in words."""
    token: str = "absent"
    """absent, accepted, refused; "present" where nobody could be asked."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """Alias of a model that is not here -> why it cannot be downloaded either."""


def home() -> Path:
    """Where the Hugging Face Hub's client keeps its token and cache: $HF_HOME."""
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))


def cache() -> Path:
    """Where models downloaded from the Hub lie: $HF_HUB_CACHE."""
    return Path(os.environ.get("HF_HUB_CACHE", home() / "hub"))


def fetch_facts(hf_id: str, revision: str) -> Path:
    """The snapshot, in the cache, with an id's config, index and tokenizer, fetched from the Hub.

    Raises InputError, which says why and what to do, when the Hub does not hand them over.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    why = "switched off by HF_HUB_OFFLINE=1" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    wanted = Model(alias=hf_id, hf_id=hf_id, revision=revision)
    if not why:
        # One question first: the client itself would try for minutes where nothing answers.
        status = _status(_config(endpoint, wanted), _token())
        why = _why(status)
    if why:
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"{hf_id}{at} is not in the Hub's cache on this machine ({cache()}), and the Hub {why}. Give a "
            "folder or an alias of models/models.toml, or bring it here: "
            f"`.venv/bin/hf download {hf_id}` where the Hub answers."
        )
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            hf_id,
            revision=revision or None,
            cache_dir=cache(),
            endpoint=endpoint,
            token=_token() or None,
            allow_patterns=list(FACTS),
        )
    )


def look(missing: Iterable[Model]) -> Access:
    """Ask the Hub ($HF_ENDPOINT) for the token's owner and for each missing model's config.json."""
    token = _token()
    unasked = "present" if token else "absent"
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Access(state="switched off by HF_HUB_OFFLINE=1", token=unasked)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    owner = _status(f"{endpoint}/api/whoami-v2", token)
    if isinstance(owner, str):
        return Access(state=owner, token=unasked)
    wanted = [model for model in missing if model.hf_id]
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(lambda m: _status(_config(endpoint, m), token), wanted)
        refused = {m.alias: _why(status) for m, status in zip(wanted, answers, strict=True)}
    return Access(
        token="absent" if not token else "accepted" if owner == 200 else "refused",
        refused={alias: why for alias, why in refused.items() if why},
    )


def _config(endpoint: str, model: Model) -> str:
    return f"{endpoint}/{model.hf_id}/resolve/{model.revision or 'main'}/config.json"


def _token() -> str:
    file = home() / "token"
    return os.environ.get("HF_TOKEN") or (file.read_text(encoding="utf-8").strip() if file.is_file() else "")


def _status(url: str, token: str) -> int | str:
    """HTTP status of a question about `url`, or why nobody answered."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.get(url, headers=headers, timeout=_TIMEOUT_S, stream=True)
        answer.close()
    except requests.Timeout:
        return f"no answer within {_TIMEOUT_S:g} s"
    except requests.RequestException as error:
        return f"not reachable ({type(error).__name__})"
    return answer.status_code


def _why(status: int | str) -> str:
    if status in (401, 403):
        return "needs a token whose owner accepted its licence"
    if status == 404:
        return "is not there under its pinned revision"
    if isinstance(status, str):
        return f"is {status}" if status.startswith("not ") else f"gives {status}"
    return "" if status == 200 else f"answered {status}"
