# TensorRT-LLM from a commit. The default is the one that the experiment log of April 2025 found to work with
# expert parallelism. About 60 GB of disk and an hour on many cores; for a released version use NVIDIA's image
# nvcr.io/nvidia/tensorrt-llm/release instead.
#
# BASE must be the PyTorch image that the commit's own docker/Dockerfile.multi names.
# tag: TRTLLM_REF
ARG BASE=nvcr.io/nvidia/pytorch:25.03-py3

FROM ${BASE} AS build
LABEL serving-harness.stage=build
ARG TRTLLM_REPO=https://github.com/NVIDIA/TensorRT-LLM.git
ARG TRTLLM_REF=2e669133c2767733c89375953bc4a94363e37985
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git git-lfs && git lfs install \
 && git clone "${TRTLLM_REPO}" /opt/src/trtllm && cd /opt/src/trtllm \
 && git checkout "${TRTLLM_REF}" && git submodule update --init --recursive && git lfs pull
# The commit's own scripts bring TensorRT, CMake and MPI; which of them exist changed over time.
RUN cd /opt/src/trtllm/docker/common \
 && for part in base cmake ccache cuda_toolkit tensorrt polygraphy mpi4py; do \
      if [ -f "install_${part}.sh" ]; then bash "install_${part}.sh" || exit 1; fi; \
    done
# 90-real = H100/H200 only: fewer kernels, a much shorter build.
ARG CUDA_ARCHS=90-real
RUN cd /opt/src/trtllm && python3 scripts/build_wheel.py --clean --cuda_architectures "${CUDA_ARCHS}"

FROM ${BASE}
COPY --from=build /opt/src/trtllm/docker/common/ /opt/src/common/
COPY --from=build /opt/src/trtllm/build/ /opt/src/wheel/
RUN cd /opt/src/common \
 && for part in base tensorrt polygraphy mpi4py; do \
      if [ -f "install_${part}.sh" ]; then bash "install_${part}.sh" || exit 1; fi; \
    done \
 && pip install --no-cache-dir /opt/src/wheel/tensorrt_llm*.whl && rm -rf /opt/src \
 && python3 -c 'import site; print(site.getsitepackages()[0] + "/tensorrt_llm/libs")' > /etc/ld.so.conf.d/tensorrt_llm.conf \
 && ldconfig
RUN command -v trtllm-serve
