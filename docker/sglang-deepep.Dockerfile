# SGLang with a chosen DeepEP and NVSHMEM. The official image brings its own DeepEP; build this one only to try
# another revision, another NVSHMEM, or another GPU than that one was compiled for.
# tag: DEEPEP_REF
ARG BASE=lmsysorg/sglang:v0.5.23-cu130
FROM ${BASE}
# So that a download that fails in a pipe fails the build.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Packages of NVSHMEM on PyPI bear CUDA's major version: nvidia-nvshmem-cu12 for a -cu129 base.
ARG NVSHMEM=nvidia-nvshmem-cu13
ARG DEEPEP_REPO=https://github.com/deepseek-ai/DeepEP.git
# The release with the API of --moe-a2a-backend deepep; main moved on to NCCL and another one.
ARG DEEPEP_REF=v1.2.1
# 9.0 = H100/H200, 10.0 = B200.
ARG CUDA_ARCHS=9.0
ARG MAX_JOBS=16

# IBGDA looks for libmlx5.so, which Ubuntu ships only in a -dev package.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    git build-essential libibverbs-dev ibverbs-providers \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf libmlx5.so.1 "/usr/lib/$(uname -m)-linux-gnu/libmlx5.so"

# From CUDA 13 on, libcu++ lies in include/cccl, which nvcc does not search by itself.
RUN pip uninstall -y deep_ep && pip install --no-cache-dir "${NVSHMEM}" \
 && git clone "${DEEPEP_REPO}" /opt/src/deepep && cd /opt/src/deepep && git checkout "${DEEPEP_REF}" \
 && CPLUS_INCLUDE_PATH=/usr/local/cuda/include/cccl NVCC_APPEND_FLAGS=-I/usr/local/cuda/include/cccl \
    TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" MAX_JOBS="${MAX_JOBS}" \
    pip install --no-cache-dir --no-build-isolation . \
 && git rev-parse HEAD > /opt/src/deepep.commit && rm -rf /opt/src/deepep

# Importing deep_ep needs libcuda, which only a container with GPUs has.
RUN pip show deep_ep | grep Version && python3 -c 'from importlib.util import find_spec; assert find_spec("deep_ep")'
