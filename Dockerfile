# Everything that `make test` needs:
#   docker build -t mona-peft . && docker run --rm mona-peft
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git make g++ \
 && rm -rf /var/lib/apt/lists/*

# Not as root, as most people run it. Not every builder makes WORKDIR the user's, so the folder is made here.
RUN useradd --create-home user \
 && install --directory --owner user --group user /home/user/mona-peft
USER user
WORKDIR /home/user/mona-peft

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1
# Torch without CUDA; for a GPU: docker build --build-arg PIP_EXTRA_INDEX_URL= -t mona-peft .
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

COPY --chown=user:user . .
# Some tests ask git which files are tracked.
RUN git init --quiet && git add --all
RUN make env

CMD ["make", "test"]
