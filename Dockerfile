# Built and started by run.sh. No CUDA base image: torch brings its own, only the driver is the host's.
FROM python:3.11.14-slim-bookworm

WORKDIR /workspace

# Before the code, and what changes least first, so that a changed pin alone installs again.
COPY docker/install.sh docker/
RUN bash docker/install.sh system
COPY requirements.txt requirements-dev.txt ./
ARG TORCH=cpu
RUN TORCH=$TORCH bash docker/install.sh torch
RUN bash docker/install.sh packages

COPY docker/tensorboard /usr/local/bin/tensorboard
COPY . .

# run.sh starts the container as the caller, a user the image does not know: no name, no home, no rights. Whoever starts
# it in another way is nobody in particular, and not root.
RUN chmod -R a+rwX /workspace && chmod a+rx /usr/local/bin/tensorboard
USER 1000:1000
# Downloaded models are kept with the data, because /tmp goes with the container.
ENV USER=simcsp \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    HF_HUB_CACHE=/workspace/data/huggingface

EXPOSE 6006
CMD ["bash"]
