"""The files that a batch job reads and writes."""

from pathlib import Path

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.service.files.paths import local_path

_LONGEST_NAME_BYTES = 200


def batch_files(target: DeploymentTargetConfig, deployment_name: str) -> tuple[Path, Path]:
    """Return the absolute paths of what a batch job reads and writes.

    Raises:
        ConfigurationError: one is missing or is no local file, or both are the same.
    """
    source = batch_file(target.input_uri, "input_uri")
    output = batch_file(target.output_uri, "output_uri")
    if source == output:
        raise ConfigurationError(
            f"The batch job {deployment_name!r} has {source} as its input and as its output.",
            hint="Set output_uri to another path.",
        )
    return source, output


def batch_file(uri: str | None, field: str) -> Path:
    """Return the absolute path that ``uri`` names: a path, or a ``file://`` URI without a host.

    A relative path is relative to the current folder of the process that provisions.

    Raises:
        ConfigurationError: there is none, or it is no local file.
    """
    if not uri:
        raise ConfigurationError(
            f"A batch inference job needs {field}, and none was given.",
            hint=f"Set deployment_target_config.{field} to a local path or a file:// URI.",
        )
    try:
        path = local_path(uri)
    except ConfigurationError as error:
        raise ConfigurationError(f"{field} is invalid: {error.message}", hint=error.hint) from None
    if path is None:
        scheme = uri.partition(":")[0]
        raise ConfigurationError(
            f"{field} has the scheme {scheme!r}, but batch jobs on this machine only use local files.",
            hint="Copy the data to a local path, or give a file:/// URI; write a path that begins with "
            f"`{scheme}:` as `./{scheme}:`.",
        )
    # The output is first written under a longer name beside it.
    if len(path.name.encode()) > _LONGEST_NAME_BYTES:
        raise ConfigurationError(
            f"The file name of {field} is longer than {_LONGEST_NAME_BYTES} bytes.",
            hint="Choose a shorter name.",
        )
    return path.absolute()
