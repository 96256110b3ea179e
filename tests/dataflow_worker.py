"""Run staged jobs, each named by a line of standard input: the worker process of tests/fake_dataflow.py.

It gets the address of a job's description in a bucket and nothing else, as a worker of the service does. What the
description holds by reference is looked up in the packages that are installed here.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from schemas import buckets


def embedded(content: bytes) -> beam_runner_api_pb2.Pipeline:
    """A job whose steps run in this process, where the service would start containers."""
    job = beam_runner_api_pb2.Pipeline.FromString(content)
    here = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in job.components.environments.values():
        environment.urn, environment.payload = here.urn, here.payload
    return job


def run(url: str) -> dict[str, Any]:
    """Run one job to its end."""
    try:
        job = embedded(buckets.read(url))
        result = FnApiRunner().run_via_runner_api(job, PipelineOptions([]))
        result.wait_until_finish()
    except Exception:  # noqa: BLE001 - the service takes whatever a worker ends with
        return {"message": traceback.format_exc(), "counters": {}}
    counters: dict[str, int] = {}
    for metric in result.metrics().query()["counters"]:
        name = metric.key.metric.name
        counters[name] = counters.get(name, 0) + metric.result
    return {"message": "", "counters": counters}


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    assert "pytest" not in sys.modules
    for line in sys.stdin:
        answers.write(json.dumps(run(line.strip())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
