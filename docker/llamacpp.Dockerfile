# llama.cpp's server on a CPU. `just image llamacpp` gathers the context: the wheels that
# engines/llamacpp.requirements.txt pins, and that file; so nothing is fetched in here.
#
# BASE: any image with Python 3.11 and libgomp on glibc 2.36 or newer, e.g. the one of scripts/make_base_image.sh.
ARG BASE=python:3.11-bookworm

FROM ${BASE} AS build
LABEL serving-harness.stage=build
COPY wheels/ /tmp/wheels/
COPY requirements.txt /tmp/
RUN python3 -m venv /opt/engine \
 && /opt/engine/bin/pip install --quiet --no-index --find-links /tmp/wheels --no-deps --no-compile \
    --disable-pip-version-check -r /tmp/requirements.txt

FROM ${BASE}
COPY --from=build /opt/engine /opt/engine
ENV PATH=/opt/engine/bin:/usr/local/bin:/usr/bin:/bin
RUN python3 -c "import xllamacpp"
