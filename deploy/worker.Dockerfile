# A worker. torch's own wheels carry CUDA, and the NVIDIA container runtime adds the driver: no CUDA base is needed.
FROM python:3.12.12-slim-trixie

# A package index with other builds of torch, such as those for CPUs. Empty: the default one, with CUDA.
ARG TORCH_INDEX_URL=""

# For `--compile`, and for what Triton makes on a GPU: torch makes its kernels with it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# What is installed first, and does not change with the code: torch and all else that it needs.
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url "$TORCH_INDEX_URL" torch; \
    fi \
    && pip install --no-cache-dir --constraint constraints.txt '.[worker]'

COPY README.md LICENSE ./
COPY farm ./farm
COPY worker ./worker
# The version is the same as that of the empty package above, which this replaces.
RUN pip install --no-cache-dir --no-deps --force-reinstall . \
    && useradd --create-home --uid 1000 farm \
    && install --directory --owner farm --group farm /models
COPY deploy/worker-healthcheck.py /usr/local/lib/worker-healthcheck.py

ENV PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    FARM_HOME=/models/farm \
    HF_HOME=/models/huggingface

USER farm
WORKDIR /home/farm
# Downloaded models, for all workers that share the volume.
VOLUME /models

HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD farm workers --json | python /usr/local/lib/worker-healthcheck.py
STOPSIGNAL SIGTERM
# One process for each GPU that the container sees; they end together, and the container is started again.
ENTRYPOINT ["farm", "worker"]
