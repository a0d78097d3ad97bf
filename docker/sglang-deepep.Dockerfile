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
# Another way to NVSHMEM, that of the experiment log: https://github.com/youkaichao/pack_nvshmem.git holds a source
# archive, which is compiled here as its build.sh does, less the kernel modules; "" = the pip package above.
ARG NVSHMEM_PACK_REPO=""
ARG NVSHMEM_PACK_REF=main
ARG GDRCOPY_REF=v2.4.4
# 0 leaves the GPU-initiated InfiniBand transport out of what is compiled here.
ARG NVSHMEM_IB_ENABLE_IBGDA=1
# 9.0 = H100/H200, 10.0 = B200.
ARG CUDA_ARCHS=9.0
ARG MAX_JOBS=16

# IBGDA looks for libmlx5.so, which Ubuntu ships only in a -dev package.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    git build-essential cmake patch libibverbs-dev ibverbs-providers \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf libmlx5.so.1 "/usr/lib/$(uname -m)-linux-gnu/libmlx5.so"

RUN if [ -z "${NVSHMEM_PACK_REPO}" ]; then exit 0; fi \
 && git clone "${NVSHMEM_PACK_REPO}" /opt/src/pack && cd /opt/src/pack && git checkout "${NVSHMEM_PACK_REF}" \
 && git clone https://github.com/NVIDIA/gdrcopy.git && git -C gdrcopy checkout "${GDRCOPY_REF}" \
 && make -C gdrcopy prefix=/opt/gdrcopy lib_install \
 && mkdir source && tar -xf nvshmem_src_*.txz -C source --strip-components=1 \
 && git clone "${DEEPEP_REPO}" deepep && git -C deepep checkout "${DEEPEP_REF}" \
 && if [ -f deepep/third-party/nvshmem.patch ]; then patch -d source -p1 < deepep/third-party/nvshmem.patch; fi \
 && GDRCOPY_HOME=/opt/gdrcopy NVSHMEM_USE_GDRCOPY=1 NVSHMEM_IBGDA_SUPPORT="${NVSHMEM_IB_ENABLE_IBGDA}" \
    NVSHMEM_SHMEM_SUPPORT=0 NVSHMEM_UCX_SUPPORT=0 NVSHMEM_USE_NCCL=0 NVSHMEM_PMIX_SUPPORT=0 \
    NVSHMEM_TIMEOUT_DEVICE_POLLING=0 cmake -S source -B build -DCMAKE_INSTALL_PREFIX=/opt/nvshmem \
 && cmake --build build -j "${MAX_JOBS}" --target install && rm -rf /opt/src/pack

# From CUDA 13 on, libcu++ lies in include/cccl, which nvcc does not search by itself.
RUN pip uninstall -y deep_ep \
 && if [ -d /opt/nvshmem ]; then export NVSHMEM_DIR=/opt/nvshmem; else pip install --no-cache-dir "${NVSHMEM}"; fi \
 && git clone "${DEEPEP_REPO}" /opt/src/deepep && cd /opt/src/deepep && git checkout "${DEEPEP_REF}" \
 && CPLUS_INCLUDE_PATH=/usr/local/cuda/include/cccl NVCC_APPEND_FLAGS=-I/usr/local/cuda/include/cccl \
    TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" MAX_JOBS="${MAX_JOBS}" NVSHMEM_IB_ENABLE_IBGDA="${NVSHMEM_IB_ENABLE_IBGDA}" \
    pip install --no-cache-dir --no-build-isolation . \
 && git rev-parse HEAD > /opt/src/deepep.commit && rm -rf /opt/src/deepep

# Importing deep_ep needs libcuda, which only a container with GPUs has.
RUN pip show deep_ep | grep Version && python3 -c 'from importlib.util import find_spec; assert find_spec("deep_ep")'
