#!/usr/bin/env bash
# Makes a Debian base image with Python, without an image registry: debootstrap into a folder, then docker import.
# For machines that reach a Debian mirror and PyPI but no registry. About 2 minutes, 240 MB. Root only.
#
#   scripts/make_base_image.sh [TAG]                       default serving-harness/base:bookworm
#   just image vllm-cpu BASE=serving-harness/base:bookworm
#
# MIRROR=http://... picks the Debian mirror.
set -euo pipefail

tag=${1:-serving-harness/base:bookworm}
packages=python3,python3-venv,ca-certificates,libnuma1,libgomp1

command -v debootstrap >/dev/null || {
    echo "make_base_image.sh: debootstrap is missing: apt-get install -y --no-install-recommends debootstrap" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include="$packages" bookworm "$work/root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1 || {
    tail -n 5 "$work/log" >&2
    echo "make_base_image.sh: debootstrap failed (its last words are above): check the network, or set MIRROR" >&2
    exit 1
}
tar -C "$work/root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -c . |
    docker import --change 'CMD ["/bin/bash"]' - "$tag" >/dev/null
echo "$tag: $(docker image inspect --format '{{.Size}}' "$tag") bytes"
