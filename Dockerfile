# Tidegate's server. VARIANT=cpu (default) or gpu:
#   docker build -t tidegate:cpu .
#   docker build -t tidegate:gpu --build-arg VARIANT=gpu .
# A mirror or certificate that pip needs goes in as a secret and stays out of the image:
#   docker build --secret id=pip,src=pip.conf .
ARG VARIANT=cpu

FROM python:3.13-slim-trixie AS base

# The project's wheel: the server and the client library it shares its stubs with.
FROM base AS wheel
WORKDIR /src
COPY requirements/build.lock requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /build \
    && python3 -m pip --python /build/bin/python install --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md ./
COPY inference inference
COPY tidegate tidegate
COPY server server
RUN python3 -m pip --python /build/bin/python wheel --no-deps --no-build-isolation \
    --no-index --wheel-dir /wheels .

# The CPU's packages, without onnxruntime-gpu's CUDA part: 285 MB that only a GPU can use.
FROM base AS packages-cpu
COPY requirements/server.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --require-hashes -r /requirements/server.lock \
    && find /venv -name 'libonnxruntime_providers_cuda.so' -delete \
    && find /venv -name 'libonnxruntime_providers_tensorrt.so' -delete

# The GPU's packages: CUDA and cuDNN from pip, which the server preloads; the host has the driver. Without
# onnxruntime-gpu's TensorRT part, whose own libraries are not here.
FROM base AS packages-gpu
COPY requirements/gpu.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --require-hashes -r /requirements/gpu.lock \
    && find /venv -name 'libonnxruntime_providers_tensorrt.so' -delete

# A stage of this file, which needs no tag.
# hadolint ignore=DL3006
FROM packages-${VARIANT} AS packages
COPY --from=wheel /wheels /wheels
# Without the commands whose packages are not here: training, and the client's own command.
RUN python3 -m pip --python /venv/bin/python install --no-deps --no-index /wheels/*.whl \
    && rm -f /venv/bin/tidegate /venv/bin/tidegate-train

# What is in /venv, as CycloneDX, told by a tool that is not in the image itself.
FROM base AS sbom-tool
COPY requirements/sbom.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /sbom \
    && python3 -m pip --python /sbom/bin/python install --require-hashes -r /requirements/sbom.lock

# hadolint ignore=DL3006
FROM packages AS sbom
COPY --from=sbom-tool /sbom /sbom
RUN /sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /venv/bin/python

FROM base AS settings-cpu
ENV TIDEGATE_DEVICE=cpu

# On a GPU newer than its libraries CUDA compiles kernels and keeps them, by default in a home that user 10001 has
# not, and up to 1 GiB: here in /tmp, within the 64 MiB that a pod of deploy/kubernetes has there.
FROM base AS settings-gpu
ENV TIDEGATE_DEVICE=auto \
    CUDA_CACHE_PATH=/tmp/cuda-cache \
    CUDA_CACHE_MAXSIZE=33554432 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM settings-${VARIANT}
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    TIDEGATE_HOST=0.0.0.0 \
    TIDEGATE_PORT=50051 \
    TIDEGATE_METRICS_PORT=9095 \
    TIDEGATE_HEALTH_PORT=50050 \
    TIDEGATE_MODEL_REPOSITORY=/models \
    TIDEGATE_DATA_FOLDER=/data
# Sessions: mount a volume at /data, or they go with the container. Nothing here installs anything or
# becomes another user: pip goes, and no program keeps the right to. Relative paths lead nowhere.
RUN install -d -o 10001 -g 10001 -m 0700 /data \
    && install -d -m 0555 /var/empty \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/pip* /usr/bin/pip* /usr/lib/python3*/ensurepip \
        /usr/lib/python3/dist-packages/pip* /usr/share/python-wheels \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
VOLUME /data
COPY --from=packages /venv /venv
COPY --from=sbom /sbom.json /usr/share/tidegate/sbom.json
COPY deploy/healthcheck.py deploy/entrypoint.py /usr/local/lib/tidegate/
COPY models /models
USER 10001:10001
WORKDIR /var/empty
EXPOSE 50051 50050 9095
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/venv/bin/python", "/usr/local/lib/tidegate/healthcheck.py"]
ENTRYPOINT ["/venv/bin/python", "/usr/local/lib/tidegate/entrypoint.py"]
