# The command `farm`, to submit, follow and fetch from anywhere: without torch, and without the worker.
FROM python:3.12.12-slim-trixie

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY farm ./farm
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --create-home --uid 1000 farm

USER farm
WORKDIR /home/farm

# For a container that is kept, to run commands in: whether the farm can be reached.
HEALTHCHECK --interval=60s --timeout=20s CMD ["farm", "workers", "--json"]
ENTRYPOINT ["farm"]
