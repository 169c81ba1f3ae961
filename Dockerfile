# The serving image: API and engine, no compiler, and TensorFlow only where workers are built. Linted by `make image-lint`.
# The base is pinned by tag. Pin it by digest (python:3.11-slim-bookworm@sha256:…) where you build:
# this file was written where no registry of images can be reached, so no digest is known here.
FROM python:3.11-slim-bookworm AS base
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1


FROM base AS builder
WORKDIR /app
RUN python -m venv .venv
# `serve` is the API and the engine; `cpu` and `gpu` add TensorFlow, for `carousel worker`.
ARG REQUIREMENTS=serve
COPY requirements/${REQUIREMENTS}.txt requirements/
# Wheels alone, each with the digest that uv.lock names: nothing is compiled, nothing else fits.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        -r requirements/${REQUIREMENTS}.txt
COPY docker/healthcheck.py ./
COPY service/ service/
# A new model store begins with it, whatever is mounted there.
COPY model_store/demo/ service/bundled_models/demo/
# The root file system may be read-only, so bytecode is made now.
RUN python -m compileall -q --invalidation-mode unchecked-hash service


FROM base AS runtime
# `make image` fills both in: the version is written in service/__init__.py alone.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Carousel" \
      org.opencontainers.image.description="Serves recurrent language models" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# ONNX Runtime reports to Microsoft unless told not to, and numba asks for a folder that it may
# write to even where all it needs lies there already.
ENV CAROUSEL_HOST=0.0.0.0 \
    CAROUSEL_PORT=8000 \
    CAROUSEL_MODEL_STORE=/var/lib/carousel/model_store \
    CAROUSEL_IMPORT_DIR=/var/lib/carousel/imports \
    CAROUSEL_DATA_DIR=/var/lib/carousel/data \
    NUMBA_CACHE_DIR=/var/cache/carousel \
    ORT_DISABLE_TELEMETRY=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin carousel \
    && install -d -o carousel -g carousel \
        /var/lib/carousel/model_store /var/lib/carousel/imports /var/lib/carousel/data \
        /var/cache/carousel
WORKDIR /app
# Root's, so that the process cannot change what it runs.
COPY --from=builder /app/ ./
USER 10001:10001
# Compile the sampler once, for this kind of processor, rather than at each start.
RUN python -c "import service.generation.sampling"
# A volume begins with what the image has at its place and can be written to, whoever runs it.
VOLUME ["/var/lib/carousel/model_store", "/var/lib/carousel/imports", "/var/lib/carousel/data", \
        "/var/cache/carousel"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "healthcheck.py"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
