# The service and nothing else: no torch, no training code, no compiler.
#
#   docker build -t oodscore:cpu .
#   docker build -t oodscore:gpu --build-arg VARIANT=gpu .
#
# PYTHON_IMAGE may name the same image by digest, or a mirror of it.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG VARIANT=cpu
COPY requirements/service.txt requirements/service-gpu.txt /build/
# A virtual environment without pip, filled by the base image's pip from a pinned, hashed lock.
# The lock's onnxruntime brings its CUDA plug-ins along; the cpu variant drops them.
RUN set -eu; \
    case "$VARIANT" in \
        cpu) lock=service.txt ;; \
        gpu) lock=service-gpu.txt ;; \
        *) echo "VARIANT is cpu or gpu, not '$VARIANT'" >&2; exit 2 ;; \
    esac; \
    python -m venv --without-pip /opt/oodscore; \
    python -m pip --python /opt/oodscore/bin/python install \
        --no-cache-dir --disable-pip-version-check --require-hashes -r "/build/$lock"; \
    if [ "$VARIANT" = cpu ]; then \
        rm -f /opt/oodscore/lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so \
              /opt/oodscore/lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime_providers_tensorrt.so; \
    fi
COPY pyproject.toml deploy/install_metadata.py /build/
RUN /opt/oodscore/bin/python /build/install_metadata.py /build/pyproject.toml
COPY models/ /models/
COPY deploy/healthcheck.py /app/healthcheck.py
COPY service/ /app/service/
# A clone under umask 077 carries files that only their owner may read.  Here, not in the image: a
# layer that changes the mode of a file holds the file once more.
RUN chmod -R a+rX /app /models && python -m compileall -q /app

FROM ${PYTHON_IMAGE}
ARG VARIANT=cpu
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oodscore" \
      org.opencontainers.image.description="Out-of-distribution scoring for deployed classifiers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      oodscore.variant="${VARIANT}"

# ORT_DISABLE_TELEMETRY: without it onnxruntime tries outside connections.
# HOME and CUDA_CACHE_PATH: the root file system may be read-only, /tmp is the one place to write.
# NVIDIA_DRIVER_CAPABILITIES: read by the NVIDIA container runtime, ignored elsewhere.
ENV PATH=/opt/oodscore/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    CUDA_CACHE_PATH=/tmp/cuda-cache \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ORT_DISABLE_TELEMETRY=1 \
    OODSCORE_HOST=0.0.0.0 \
    OODSCORE_PORT=8000 \
    OODSCORE_MODELS_DIR=/models

WORKDIR /app
COPY --from=packages /opt/oodscore /opt/oodscore
COPY --from=packages /models /models
COPY --from=packages /app /app
# The one other place to write, where a volume is mounted on it: evidence of drift, captures.
RUN install -d -o 10001 -g 10001 -m 0700 /state

# Any user id works; a numeric one lets Kubernetes check that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "/app/healthcheck.py"]
ENTRYPOINT ["oodscore"]
CMD ["serve"]
