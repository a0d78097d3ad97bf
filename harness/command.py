"""A Launch as the command a person would type, a Recipe as it may be kept. Secrets are named, never shown."""

from __future__ import annotations

import re
import shlex

import msgspec

from harness.schema import Launch, Model, Recipe

_SECRET = re.compile(r"(TOKEN(?!S|IZ)|API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--(api-key|hf-token|.*password.*)")


def is_secret(name: str) -> bool:
    """True for environment variables whose value must never be written: HF_TOKEN, *_API_KEY ..."""
    return bool(_SECRET.search(name)) and name not in ("TOKENIZERS_PARALLELISM",)


def redacted_env(env: dict[str, str]) -> dict[str, str]:
    """The same variables, secret values replaced by a reference to the caller's own; references stay."""
    return {k: f"${{{k}}}" if is_secret(k) and not v.startswith("${") else v for k, v in env.items()}


def redacted_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The same words, values of secret flags replaced by ***, in both spellings (--k v, --k=v).

    A value that is the name of a variable, ${NAME}, stays.
    """
    hidden = {value for value in secret_words(argv) if not value.startswith("${")}
    return tuple(_hidden(word, hidden) for word in argv)


def _hidden(word: str, hidden: set[str]) -> str:
    flag, equals, value = word.partition("=")
    if word in hidden:
        return "***"
    return f"{flag}=***" if equals and value in hidden and _SECRET_FLAG.fullmatch(flag) else word


def secret_words(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Values of secret flags."""
    values: list[str] = []
    after_secret = False
    for word in argv:
        flag, equals, value = word.partition("=")
        secret = bool(_SECRET_FLAG.fullmatch(flag))
        if after_secret or (secret and equals):
            values.append(word if after_secret else value)
        after_secret = secret and not equals and not after_secret
    return tuple(values)


def redacted_recipe(recipe: Recipe) -> Recipe:
    """The recipe as it may be written to a file; from there, secrets refer to the caller's own."""
    return msgspec.structs.replace(recipe, env=redacted_env(recipe.env), args=redacted_argv(recipe.args))


def fetch_weights(model: Model) -> str:
    """How the weights of a model come to this machine, in words."""
    if not model.hf_id:
        return f"`{model.made_by}` makes them" if model.made_by else "put them where models/models.toml says"
    revision = f" --revision {model.revision}" if model.revision else ""
    fetch = f".venv/bin/hf download {model.hf_id}{revision}"
    return f"`{fetch}` fetches them, or set HF_HOME to a cache that has them"


def by_hand(launch: Launch) -> str:
    """The shell command that does what this launch does, from the repository's root."""
    if launch.launcher == "attach":
        return f"# nothing is launched; {launch.base_url} is used as it is"
    if launch.launcher == "docker":
        from harness.launchers.docker import shell_command

        return shell_command(launch)
    env = [f"{k}={v if v.startswith('${') else shlex.quote(v)}" for k, v in redacted_env(launch.env).items()]
    return " \\\n  ".join([*env, shlex.join(redacted_argv(launch.argv))])
