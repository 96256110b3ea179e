"""Check a set-up with workers on other machines before anything is planned, staged or submitted.

What Beam itself would only find out after minutes, in a traceback, or never: workers without this
program, options that a service needs. Each message says what is wrong,
and the exact option or command that mends it; docs/runners.md has the set-ups that are right.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import __version__
from schemas import buckets
from schemas.errors import ConfigError

DATAFLOW = "dataflowrunner"
# Runners whose job server is asked, or started, by Beam's portable client.
PORTABLE = ("portablerunner", "flinkrunner", "sparkrunner", "prismrunner")
# Runners that lose what a stage writes, or cannot be installed beside this Beam.
UNFIT = {
    "daskrunner": "Dask's runner writes only a part of what a stage writes, without a word",
    "dask": "Dask's runner writes only a part of what a stage writes, without a word",
    "rayrunner": "Ray's runner does not work with this version of Beam",
    "interactiverunner": "the interactive runner is made for notebooks",
}
IMAGE_COMMAND = "trelm-pipeline image --registry REGISTRY"
IMAGE = f"REGISTRY/trelm-pipeline:{__version__}"
# Beam's own images: they have Beam and Python, and nothing of ours.
_STOCK_IMAGE = re.compile(r"(?:^|/)(?:apache/)?beam_python[\d.]+_sdk(?:[:@]|$)")
# Others that `trelm-pipeline image` builds, none of which can work for a stage.
_OTHER_IMAGE = re.compile(r"(?:^|/)trelm-(flex|train)(?=[:@]|$)")
_FAULTS = {
    "flex": "is the image of the Flex template, which starts a launcher and no worker",
    "train": "is the trainer's image, which lacks Beam",
}
_BUCKET = re.compile(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9](?:/.*)?")
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PROJECT = re.compile(r"[a-z][-a-z0-9:.]+[a-z0-9]")
_ENDPOINT = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
# A job server on the way to be started answers later than this, and says nothing meanwhile.
CONNECT_S = 5.0
# Needed on this machine to submit to Dataflow, all of the extra gcp.
_GCP_MODULES = ("google.cloud.dataflow_v1beta3", "google.cloud.storage", "gcsfs")
Options = Mapping[str, Any]


def check_options(runner: str, options: Options, num_workers: int = 1) -> None:
    """Refuse options with which a job on other machines cannot end well.

    Args:
        runner: as the user gave it.
        options: all of Beam's options, with their defaults.
        num_workers: of `--workers`, which counts local processes.

    Raises:
        ConfigError: what is wrong, and the option or command that mends it.
    """
    name = runner.lower()
    if name not in (DATAFLOW, *PORTABLE):
        return
    if num_workers != 1:
        more = "--max_num_workers=N" if name == DATAFLOW else "--parallelism=N"
        raise ConfigError(
            f"--workers {num_workers} counts processes of this machine, and --runner={runner} uses "
            f"others; give {more} instead"
        )
    if name == DATAFLOW:
        _check_dataflow(runner, options)
    else:
        _check_portable(runner, options)


def check_runner(runner: str) -> None:
    """Refuse a runner that Beam has and that cannot run a stage.

    Raises:
        ConfigError: why, and what to use instead.
    """
    reason = UNFIT.get(runner.lower())
    if reason:
        raise ConfigError(
            f"--runner={runner}: {reason}; use one of docs/runners.md, such as --runner=FlinkRunner"
        )


def missing_gcp() -> str:
    """Return the first module that Dataflow needs and that is not installed; nothing if all are."""
    for name in _GCP_MODULES:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return name
    return ""


def _check_dataflow(runner: str, options: Options) -> None:
    """Refuse what the service, or Beam on the way to it, would refuse late or not at all."""
    missing = missing_gcp()
    if missing:
        raise ConfigError(
            f"--runner={runner}: {missing} is not installed; pip install 'trelm[pipeline,gcp]'"
        )

    _check_project(runner, options)
    for name in ("temp_location", "staging_location"):
        _check_bucket_option(runner, name, options.get(name))
    _check_image(runner, options)
    job_name = options.get("job_name")
    if job_name and not _JOB_NAME.fullmatch(job_name):
        near = re.sub(r"[^-a-z0-9]+", "-", job_name.lower()).lstrip("-0123456789")
        raise ConfigError(
            f"--job_name={job_name}: Dataflow takes a-z, 0-9 and -, and a letter first; "
            f"give --job_name={near.rstrip('-') or 'trelm'}"
        )
    num, largest = options.get("num_workers"), options.get("max_num_workers")
    if num and largest and num > largest:
        raise ConfigError(
            f"--num_workers={num} is above --max_num_workers={largest}; give --max_num_workers={num}"
        )


def _check_project(runner: str, options: Options) -> None:
    project = options.get("project")
    if not project:
        raise ConfigError(
            f"--runner={runner}: no project; give --project=ID "
            "(`gcloud config get-value project` prints yours)"
        )
    if not _PROJECT.fullmatch(project):
        what = "a project's number" if project.isdigit() else "no project's id"
        raise ConfigError(
            f"--project={project}: is {what}; give --project=ID "
            "(`gcloud projects list` prints the ids)"
        )
    if not options.get("region"):
        raise ConfigError(
            f"--runner={runner}: no region; give --region=…, the one of your bucket "
            "(such as --region=europe-west1)"
        )


def _check_bucket_option(runner: str, name: str, location: str | None) -> None:
    """Refuse a place for Beam's own files that is none: Beam would try to make a bucket."""
    if not location:
        # Without its own, what is staged goes where temporary files go.
        if name == "temp_location":
            raise ConfigError(
                f"--runner={runner}: no place for the job's own files; "
                "give --temp_location=gs://BUCKET/temp"
            )
        return
    if not location.startswith("gs://"):
        raise ConfigError(
            f"--{name}={location}: Dataflow keeps its own files in a bucket of Google's; "
            f"give --{name}=gs://BUCKET/temp"
        )
    if not _BUCKET.fullmatch(location) or location.rstrip("/").count("/") < 3:
        raise ConfigError(
            f"--{name}={location}: is no folder of a bucket; give --{name}=gs://BUCKET/temp, "
            "the bucket's name in a-z, 0-9, -, _ and dots"
        )


def _check_image(runner: str, options: Options) -> None:
    image = options.get("sdk_container_image") or options.get("worker_harness_container_image")
    remedy = (
        f"`{IMAGE_COMMAND}` prints the commands that build and push one; then give "
        f"--sdk_container_image={IMAGE}"
    )
    if not image:
        raise ConfigError(
            f"--runner={runner}: no image, so its workers would run Beam's own, which lacks this "
            f"program; {remedy}"
        )
    if _STOCK_IMAGE.search(image):
        raise ConfigError(
            f"--sdk_container_image={image}: is Beam's own image, which lacks this program; {remedy}"
        )
    _refuse_other_image("sdk_container_image", image)


def _refuse_other_image(option: str, image: str) -> None:
    """Refuse an image of ours that is made for something else than a stage's workers."""
    found = _OTHER_IMAGE.search(image)
    if found:
        # Images of one checkout differ by this name alone; a digest is of one of them.
        right = f"{image[: found.start(1)]}pipeline{image[found.end(1) :].partition('@')[0]}"
        raise ConfigError(
            f"--{option}={image}: {_FAULTS[found[1]]}; give the pipeline's image, --{option}={right} "
            f"(`{IMAGE_COMMAND}` prints the commands that build and push it)"
        )


def _check_portable(runner: str, options: Options) -> None:
    """Refuse a job server that is not there, and workers that would lack this program."""
    endpoint = options.get("job_endpoint")
    if not endpoint and runner.lower() == "portablerunner":
        raise ConfigError(
            f"--runner={runner}: no job server; start one (docs/runners.md) and give "
            "--job_endpoint=HOST:8099"
        )
    for name in ("flink_job_server_jar", "spark_job_server_jar", "prism_location"):
        path = options.get(name)
        if path and "://" not in path and not Path(path).is_file():
            raise ConfigError(
                f"--{name}={path}: no such file; docs/runners.md says where it comes from"
            )
    _check_environment(runner, options)
    if endpoint and endpoint != "embed":
        _check_endpoint("job_endpoint", endpoint)
        _connect(endpoint)


def _check_environment(runner: str, options: Options) -> None:
    """Refuse workers that cannot start, or that would start without this program."""
    kind = str(options.get("environment_type") or "").upper()
    config = options.get("environment_config") or ""
    given = options.get("environment_options") or []
    if kind in ("", "DOCKER"):
        # Where a runner is started here for the job alone, Beam takes LOOPBACK.
        is_local = runner.lower() != "portablerunner" and not options.get("job_endpoint")
        cluster = options.get("flink_master", "[auto]")
        is_local = is_local and (runner.lower() != "flinkrunner" or cluster.startswith("["))
        image = config or options.get("sdk_container_image") or ""
        if (not image and not (is_local and not kind)) or _STOCK_IMAGE.search(image):
            raise ConfigError(
                f"--runner={runner}: its workers would run Beam's own image, which lacks this "
                "program; give --environment_type=EXTERNAL --environment_config=localhost:50000 (a "
                "worker pool on each machine), or --environment_type=DOCKER "
                f"--environment_config={IMAGE} (`{IMAGE_COMMAND}` builds it)"
            )
        _refuse_other_image("environment_config" if config else "sdk_container_image", image)
    elif kind == "EXTERNAL":
        if not config and not any("external_service_address=" in option for option in given):
            raise ConfigError(
                "--environment_type=EXTERNAL: no worker pool; start one on each machine (`python -m "
                "apache_beam.runners.worker.worker_pool_main --service_port=50000`) and give "
                "--environment_config=localhost:50000"
            )
        if config:
            _check_endpoint("environment_config", _pool_of(config).removeprefix("http://"))
    elif kind == "PROCESS" and not any("process_command=" in option for option in given):
        _check_process(config)
    elif kind not in ("PROCESS", "LOOPBACK"):
        raise ConfigError(
            f"--environment_type={kind}: no such kind; give EXTERNAL, PROCESS, DOCKER or LOOPBACK"
        )


def _pool_of(config: str) -> str:
    """Return the address of a worker pool, which Beam takes as it is or as the `url` of JSON."""
    if not config.strip().startswith("{"):
        return config
    try:
        url = json.loads(config)["url"]
    except (ValueError, KeyError):
        url = None
    if not url or not isinstance(url, str):
        raise ConfigError(
            f"--environment_config={config}: names no worker pool; give "
            """--environment_config='{"url": "localhost:50000"}', or the address alone"""
        )
    return url


def _check_process(config: str) -> None:
    """Refuse a description of worker processes without a command."""
    remedy = """give --environment_config='{"command": "/opt/apache/beam/boot"}'"""
    try:
        command = json.loads(config)["command"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--environment_type=PROCESS: no command that starts a worker; {remedy}"
        ) from error
    if not isinstance(command, str) or not command.startswith("/"):
        raise ConfigError(
            f"--environment_config: the command {command!r} is no absolute path, and workers start "
            f"in a folder of their own; {remedy}"
        )


def _check_endpoint(name: str, endpoint: str) -> None:
    if not _ENDPOINT.fullmatch(endpoint):
        port = {"job_endpoint": 8099}.get(name, 50000)
        host = endpoint.partition("://")[2] or endpoint
        raise ConfigError(
            f"--{name}={endpoint}: is no HOST:PORT; give --{name}={host.partition(':')[0]}:{port}"
        )


def _connect(endpoint: str) -> None:
    """Refuse a job server that does not answer: Beam would wait for it for minutes."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--job_endpoint={endpoint}: no job server answers there ({text}); start it first "
            "(docs/runners.md), or correct the address"
        ) from error


def check_places(options: Options) -> None:
    """Refuse buckets for Beam's own files that are not there, or not to be written.

    Beam would try again for ten minutes and more before it said so.

    Raises:
        BucketError: says which, and what to do.
    """
    places = [options.get("temp_location"), options.get("staging_location")]
    for place in dict.fromkeys(place for place in places if place):
        probe = f"{place.rstrip('/')}/trelm-may-write"
        buckets.write(probe, b"")
        buckets.remove(probe)


def service_message(error: BaseException) -> str | None:
    """Return what a user can do about an answer of a runner's services; None for another error."""
    cause: BaseException | None = error
    while cause is not None:
        module, text = type(cause).__module__, " ".join(str(cause).split())[:600]
        if module.startswith(("google.api_core.exceptions", "google.cloud.exceptions")):
            return (
                f"Google's service refused the job: {text}; check --project, --region, that the "
                "Dataflow API is on, and the rights of the account (`gcloud auth list`)"
            )
        if module.startswith("google.auth"):
            return (
                f"no valid credentials for Google's services ({text}); give `gcloud auth "
                "application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with a key file"
            )
        if "Service failed to start up" in text:
            return (
                f"the runner's own program did not start ({text}); run it by hand, as docs/runners.md shows, "
                "to see why"
            )
        if type(cause).__name__ == "DataflowRuntimeException":
            return (
                f"the job failed on Dataflow: {text}; its log is in the console, and the same "
                "command goes on where it stopped"
            )
        cause = cause.__cause__ or cause.__context__
    return None
