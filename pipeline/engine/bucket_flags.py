"""Honour Beam's own flags for s3:// in the client of buckets: --s3_endpoint_url and its like.

They are turned into the variables from which the clouds' own tools take the same. So processes that
this one starts have them too, and a worker elsewhere takes them from the options of its pipeline.
"""

from __future__ import annotations

import os

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from schemas.errors import ConfigError

VARIABLES = {
    "s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
    "s3_endpoint_url": "AWS_ENDPOINT_URL",
    "s3_region_name": "AWS_DEFAULT_REGION",
    "s3_verify": "AWS_CA_BUNDLE",
}
# What the client has no variable for, with what serves instead.
_INSTEAD = {
    "s3_disable_ssl": "give an address that begins with http:// as --s3_endpoint_url",
    "s3_api_version": "leave it out: the present one is taken",
}


def honour_flags(options: PipelineOptions) -> None:
    """Set the variables that flags stand for; a flag counts before a variable.

    Raises:
        ConfigError: a flag that cannot be honoured.
    """
    flags = options.view_as(S3Options)
    for name, advice in _INSTEAD.items():
        if getattr(flags, name):
            raise ConfigError(f"--{name} is not honoured; {advice}")
    for name, variable in VARIABLES.items():
        value = getattr(flags, name)
        if value:
            os.environ[variable] = value


def honour_flags_of_worker() -> None:
    """Do the same in a worker that was started elsewhere, by the options that Beam gave it."""
    options = FileSystems._pipeline_options
    if isinstance(options, PipelineOptions):
        honour_flags(options)
