# Built and started by run.sh. PyPI's torch for Linux brings its own CUDA: no CUDA base image, only the host's driver.
FROM python:3.11.14-slim-bookworm

# git: a run records its commit.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /workspace

WORKDIR /workspace

# Before the code, so that only a changed pin installs again. torch first: see requirements.txt.
# The development packages are few and let the tests run here too.
COPY requirements.txt requirements-dev.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check "$(grep -oE '^torch==[^ ]+' requirements.txt)" \
    && pip install --no-cache-dir --disable-pip-version-check -r requirements.txt -r requirements-dev.txt

COPY docker/tensorboard /usr/local/bin/tensorboard
COPY . .

# run.sh starts the container as the caller, a user the image does not know: no name, no home, no rights.
# Downloaded models are kept with the data, because /tmp goes with the container.
RUN chmod -R a+rwX /workspace && chmod a+rx /usr/local/bin/tensorboard
ENV USER=simcsp \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    HF_HUB_CACHE=/workspace/data/huggingface

EXPOSE 6006
CMD ["bash"]
