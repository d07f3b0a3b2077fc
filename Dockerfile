# Pointsman, ready to serve: environment, base model and encoder are in the image. Every step is one that `make` uses.
#
#   docker build -t pointsman .                          CPU
#   docker build -t pointsman --build-arg GPU=cuda --build-arg BASE_IMAGE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
#   docker build -t pointsman --build-arg GPU=rocm --build-arg BASE_IMAGE=rocm/dev-ubuntu-24.04:7.2 .
#   docker run -p 8080:8080 -e GATEWAY_API_KEYS=secret pointsman
#
# GPU runs also need the device: `--gpus all`, or `--device /dev/kfd --device /dev/dri`, and
# `-e GATEWAY_ENGINE__GPU_LAYERS=999`.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
ARG GPU=cpu

RUN apt-get update \
 && apt-get install -y --no-install-recommends make libgomp1 python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home pointsman && install -d -o pointsman -g pointsman /home/pointsman/app
USER pointsman
WORKDIR /home/pointsman/app

# The environment first: it changes less often than the code.
COPY --chown=pointsman pyproject.toml Makefile README.md LICENSE ./
COPY --chown=pointsman gateway/__init__.py gateway/__init__.py
COPY --chown=pointsman router/__init__.py router/__init__.py
COPY --chown=pointsman training/__init__.py training/__init__.py
RUN make env GPU=${GPU}

COPY --chown=pointsman . .
# The base model, and the encoder with the router fitted on it.
RUN make pull GPU=${GPU} && .venv/bin/pointsman router fit

EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
  CMD [".venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ready', timeout=8)"]
# Listening for others needs a key: GATEWAY_API_KEYS, or auth.keys_file.
CMD [".venv/bin/pointsman", "serve", "--host", "0.0.0.0"]
