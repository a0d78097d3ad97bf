"""The Hugging Face Hub as this machine sees it: cache, token, and which models it would hand over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import requests

from harness import models
from harness.schema import Model, Noun

_TIMEOUT_S = 5.0


class Access(Noun):
    """What the Hub answers, asked without downloading anything."""

    state: str = ""
    """"" = it answers; else why it does not, in words."""
    token: str = "absent"
    """absent, accepted, refused; "present" where nobody could be asked."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """Alias of a model that is not here -> why it cannot be downloaded either."""


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
    file = models.hub_home() / "token"
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
    return "" if status == 200 else f"answered {status}"
