# One replica of the broker. State that must survive lives in /var/lib/token-broker.
#   docker build -t token-broker .
#   docker build -t token-broker-sandbox --target sandbox .

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN python -m venv .venv
COPY requirements.txt ./
RUN .venv/bin/pip install --quiet --require-hashes --requirement requirements.txt
COPY pyproject.toml ./
COPY service service
# The migrations stand beside the package, not in it: the package is installed where it lies.
# What only builds (and pip itself) stays behind.
RUN .venv/bin/pip install --quiet --no-deps --no-build-isolation --editable . \
    && .venv/bin/pip uninstall --quiet --yes editables hatchling pathspec pluggy tomlkit trove-classifiers setuptools pip

FROM python:3.11-slim AS runtime
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin broker \
    && install --directory --owner=broker --mode=0700 /var/lib/token-broker
WORKDIR /app
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001

# The provider of demos and tests; no part of the broker's image.
FROM runtime AS sandbox
COPY sandbox sandbox
EXPOSE 8001
CMD ["python", "-m", "sandbox", "--host", "0.0.0.0", "--port", "8001"]

FROM runtime AS broker
LABEL org.opencontainers.image.title="token-broker" \
      org.opencontainers.image.version="0.1.0"
COPY alembic alembic
ENV BROKER_HOST=0.0.0.0 \
    BROKER_ESCROW_DIR=/var/lib/token-broker/escrow \
    BROKER_PORT=8000 \
    BROKER_DATABASE_URL=sqlite+aiosqlite:////var/lib/token-broker/token-broker.db
VOLUME /var/lib/token-broker
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['BROKER_PORT'] + '/healthz', timeout=2)"]
CMD ["token-broker", "serve"]
