# vLLM with MORI expert parallelism, both from source. Needs a machine with a registry, GitHub, and hours of CPU.
# Also builds forks: VLLM_REPO and VLLM_REF name any repository and branch.
# tag: VLLM_REF
ARG BASE=rocm/vllm-dev:base
FROM ${BASE}
# So that a download that fails in a pipe fails the build.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# GPU_ARCHS: gfx942 = MI300X/MI325X, gfx950 = MI350X/MI355X. MORI supports these two only.
ARG GPU_ARCHS="gfx942;gfx950"
ARG MAX_JOBS=""

# libopenmpi-dev and libpci-dev: MORI's process start and its PCIe topology search. libibverbs-dev: its headers.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    git curl ca-certificates cmake openmpi-bin libopenmpi-dev libpci-dev libibverbs-dev libdw1 \
 && rm -rf /var/lib/apt/lists/*

# MORI loads torch's libraries by name. Their folder depends on the Python version, ENV cannot ask for it: a link can.
RUN ln -s "$(python3 -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')" /opt/torch-lib
ENV LD_LIBRARY_PATH=/opt/torch-lib:/opt/rocm/lib:/usr/local/lib

ARG MORI_REPO=https://github.com/ROCm/mori.git
ARG MORI_REF=624002c
# Build options of MORI's user guide: NICs of Broadcom and Pensando, kernel tracing (MORI-VIZ), DeepEP's 3D layout.
# MORI compiles kernels at run time too and reads the first two then (python/mori/jit/config.py): they stay set.
ARG USE_BNXT=OFF
ARG USE_IONIC=OFF
ARG ENABLE_PROFILER=OFF
ARG ENABLE_STANDARD_MOE_ADAPT=OFF
ENV USE_BNXT=${USE_BNXT} USE_IONIC=${USE_IONIC} \
    ENABLE_PROFILER=${ENABLE_PROFILER} ENABLE_STANDARD_MOE_ADAPT=${ENABLE_STANDARD_MOE_ADAPT}
# --no-build-isolation: MORI compiles against the torch of this image, not against one that pip would fetch.
RUN git clone "${MORI_REPO}" /opt/src/mori && cd /opt/src/mori \
 && git checkout "${MORI_REF}" && git submodule update --init --recursive \
 && pip uninstall -y mori amd_mori \
 && MORI_GPU_ARCHS="${GPU_ARCHS}" MAX_JOBS="${MAX_JOBS}" pip install --no-cache-dir --no-build-isolation .

ARG VLLM_REPO=https://github.com/vllm-project/vllm.git
ARG VLLM_REF=v0.32.0
# vLLM's newer sources hold Rust and say so with rust-toolchain.toml; older ones and forks need no Rust.
RUN git clone "${VLLM_REPO}" /opt/src/vllm && cd /opt/src/vllm && git checkout "${VLLM_REF}" \
 && if [ -f rust-toolchain.toml ]; then \
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain none \
      && if [ -f tools/install_protoc.sh ]; then bash tools/install_protoc.sh; fi; \
    fi \
 && export PATH="/root/.cargo/bin:${PATH}" VLLM_TARGET_DEVICE=rocm PYTORCH_ROCM_ARCH="${GPU_ARCHS}" MAX_JOBS="${MAX_JOBS}" \
 && pip install --no-cache-dir -r requirements/rocm.txt \
 && pip install --no-cache-dir --no-build-isolation . \
 && git rev-parse HEAD > /opt/src/vllm.commit && git -C /opt/src/mori rev-parse HEAD > /opt/src/mori.commit \
 && rm -rf /opt/src/vllm /root/.cargo /root/.rustup

# Empty = MORI asks the GPU. A fixed list of two makes it load gfx942 kernels on a gfx950 (vLLM PR #49737).
ENV MORI_GPU_ARCHS=""
# No grep -q: it closes the pipe early, and pip then fails.
RUN pip show mori amd_mori 2>/dev/null | grep Version && pip show vllm | grep Version
