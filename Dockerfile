# The image of the job and of its Ray cluster: docker build -t mnist-job .
# With GPUs: docker build --build-arg VARIANT=gpu -t mnist-job:0.1.0-gpu .
# BuildKit is not needed.

FROM python:3.11-slim-bookworm AS build
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy
RUN pip install --no-cache-dir --quiet 'uv>=0.9,<1' \
    && python3 -m venv --without-pip /opt/venv

# The locked dependencies: the large layer. It changes only when the lock file changes.
FROM build AS dependencies
ARG VARIANT=cpu
COPY requirements-${VARIANT}.lock /requirements.lock
# Compile to bytecode here. Without it, each process would compile TensorFlow and Ray again, because it cannot write here.
RUN uv pip install --quiet --python /opt/venv/bin/python --require-hashes --compile-bytecode -r /requirements.lock
# Remove files that no process of the job opens. The comments say how large they are, uncompressed and compressed.
RUN cd /opt/venv/lib/python3.11/site-packages \
    # C++ headers, for building operations: 264 MB, 30 MB
    && rm -r tensorflow/include \
    # tests of the packages: 127 MB, 33 MB
    && find . -type d -name tests -prune -exec rm -r {} + \
    # the client for asyncio: 64 MB, 5 MB
    && rm -r kubernetes/aio \
    # libclang, which is only needed to build TensorFlow: 62 MB, 25 MB
    && rm -r clang \
    # workers written in Java: 33 MB, 32 MB
    && rm -r ray/jars

# The package: the small layer.
FROM build AS package
COPY . /src
RUN uv build --quiet --wheel --out-dir /dist /src \
    && uv pip install --quiet --python /opt/venv/bin/python --prefix /package --no-deps --compile-bytecode /dist/*.whl

FROM python:3.11-slim-bookworm
# HOME is writable for any user. With a read-only root filesystem, mount a writable volume there.
RUN useradd --no-log-init --no-create-home --uid 1000 --home-dir /home/mnist-job mnist-job \
    && install -d -m 1777 /home/mnist-job
ENV PATH=/opt/venv/bin:$PATH HOME=/home/mnist-job PYTHONUNBUFFERED=1
WORKDIR /home/mnist-job
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /package /opt/venv
USER 1000:1000
ENTRYPOINT ["mnist-job"]
CMD ["--help"]

ARG VERSION=0.1.0
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="mnist-job" \
      org.opencontainers.image.description="Train a Keras 3 model data-parallel on Ray, evaluate it, report to Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
