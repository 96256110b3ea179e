"""Make `image`: print, or run, the commands that build this program's image and push it to a registry."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline import __version__
from schemas.errors import ConfigError, TrelmError

ENGINES = ("docker", "podman")
METADATA = "pipeline/flex_template.json"
# Of a name that engines and registries take: host, port and folders, then the image.
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlan:
    """Say what to build, and where it goes."""

    registry: str
    tag: str
    target: str
    source: str
    # Address of an index of CPU wheels of torch; empty where pip finds them by itself.
    torch_index: str
    # Where the template's description goes; empty builds no template.
    flex: str

    @property
    def image(self) -> str:
        """Return the name of the image."""
        return self.name_of(self.target)

    def name_of(self, target: str) -> str:
        """Return the name of the image of a target."""
        return f"{self.registry}/trelm-{target}:{self.tag}"


def check_plan(plan: ImagePlan) -> None:
    """Refuse what an engine or a registry would refuse after minutes.

    Raises:
        ConfigError: says which option, and what would be right.
    """
    if not _REGISTRY.fullmatch(plan.registry):
        raise ConfigError(
            f"--registry {plan.registry}: is no name of a registry; give HOST/FOLDER in small letters, "
            "without https:// and without a slash at the end"
        )
    if not _TAG.fullmatch(plan.tag):
        raise ConfigError(f"--tag {plan.tag}: is no tag; use letters, digits, dots, - and _")
    for name in ("Dockerfile", METADATA):
        if not (Path(plan.source) / name).is_file():
            raise ConfigError(
                f"--source {plan.source}: has no {name}; give the folder of a checkout of this program"
            )
    if plan.flex and not plan.flex.startswith("gs://"):
        raise ConfigError(
            f"--flex {plan.flex}: the template's description lies in a bucket of Google's; give "
            "--flex gs://BUCKET/templates/trelm.json"
        )
    if plan.flex and plan.target != "pipeline":
        raise ConfigError("--flex is for --target pipeline alone; leave one of them out")


def commands_of(plan: ImagePlan, engine: str) -> list[list[str]]:
    """Return the commands that build and push, in order; they run in the checkout's folder."""
    targets = [plan.target, *(["flex"] if plan.flex else [])]
    commands = []
    for target in targets:
        build = [engine, "build", "--platform", "linux/amd64", "--target", target]
        if plan.torch_index:
            build += ["--build-arg", f"PIP_EXTRA_INDEX_URL={plan.torch_index}"]
        name = plan.name_of(target)
        commands += [[*build, "--tag", name, "."], [engine, "push", name]]
    if plan.flex:
        describe = ["gcloud", "dataflow", "flex-template", "build", plan.flex]
        describe += ["--image", plan.name_of("flex"), "--sdk-language", "PYTHON"]
        commands.append([*describe, "--metadata-file", METADATA])
    return commands


def _use(plan: ImagePlan) -> str:
    """Say how the image is used once it is pushed."""
    if plan.target == "train":
        return f"docker run --gpus all {plan.image} run --help"
    if plan.flex:
        return (
            f"gcloud dataflow flex-template run trelm-link --template-file-gcs-location {plan.flex} "
            f"--region REGION --parameters stage=link,run=gs://BUCKET/run,sdk_container_image={plan.image}"
        )
    return f"trelm-pipeline link --runner=DataflowRunner … --sdk_container_image={plan.image}"


def find_engine() -> str:
    """Return the engine that is installed and answers.

    Raises:
        TrelmError: there is none, or it does not answer.
    """
    problems = []
    for engine in ENGINES:
        if shutil.which(engine) is None:
            continue
        asked = subprocess.run([engine, "info"], check=False, capture_output=True, text=True)
        if asked.returncode == 0:
            return engine
        lines = (asked.stderr or asked.stdout).strip().splitlines()
        problems.append(f"{engine}: {lines[-1] if lines else 'does not answer'}")
    raise TrelmError(
        f"no engine that builds images ({'; '.join(problems) or 'neither docker nor podman'}); start one, "
        "or leave --build out and run the commands where there is one"
    )


def _run(commands: list[list[str]], folder: str) -> None:
    for command in commands:
        click.echo(shlex.join(command), err=True)
        done = subprocess.run(command, cwd=folder, check=False)
        if done.returncode:
            raise TrelmError(
                f"`{shlex.join(command)}` failed with code {done.returncode}; its own message stands "
                "above, and the same command goes on with what is built"
            )


@click.command("image")
@click.option(
    "--registry",
    metavar="HOST/FOLDER",
    required=True,
    help="Registry of your own that the image goes to.",
)
@click.option("--tag", default=__version__, show_default=True, help="Tag of the image.")
@click.option(
    "--target",
    type=click.Choice(["pipeline", "train"]),
    default="pipeline",
    show_default=True,
    help="Image to build: launcher and workers of the stages, or the trainer.",
)
@click.option(
    "--source",
    metavar="FOLDER",
    default=".",
    show_default=True,
    help="Folder of a checkout of this program, which has the Dockerfile.",
)
@click.option(
    "--torch-index",
    metavar="ADDRESS",
    default="",
    help="Address of an index with CPU wheels of torch, where pip does not find them by itself.",
)
@click.option(
    "--flex",
    metavar="gs://…",
    default="",
    help="Build a Flex template of Dataflow too; its description goes here.",
)
@click.option("--build", "builds", is_flag=True, help="Run the commands, with docker or podman.")
def image_command(builds: bool, **given: str) -> None:  # noqa: FBT001 - a flag of click
    """Print the commands that build this program's image and push it to a registry. With --build
    they run.

    \b
    trelm-pipeline image --registry REGISTRY
    trelm-pipeline image --registry REGISTRY --build
    trelm-pipeline image --registry REGISTRY --target train
    trelm-pipeline image --registry REGISTRY --flex gs://BUCKET/templates/trelm.json
    """
    plan = ImagePlan(**given)
    check_plan(plan)
    if builds:
        _run(commands_of(plan, find_engine()), plan.source)
        click.echo(plan.image)
        return
    if plan.source != ".":
        click.echo(f"cd {shlex.quote(plan.source)}")
    for command in commands_of(plan, ENGINES[0]):
        click.echo(shlex.join(command))
    click.echo(f"# then: {_use(plan)}")
