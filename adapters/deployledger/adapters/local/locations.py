"""The files that a batch job reads and writes."""

import importlib.util

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.service.files.paths import local_path

_LONGEST_NAME_BYTES = 200
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""What fsspec needs for the object stores, by scheme."""


def batch_files(target: DeploymentTargetConfig, deployment_name: str) -> tuple[str, str]:
    """Return the absolute paths, or URIs of object stores, of what a batch job reads and writes.

    Raises:
        ConfigurationError: one is missing or cannot be used, or two are the same.
    """
    source = batch_file(target.input_uri, "input_uri")
    output = batch_file(target.output_uri, "output_uri")
    if source.rstrip("/") == output.rstrip("/"):
        raise ConfigurationError(
            f"The batch job {deployment_name!r} has {source} as its input and as its output.",
            hint="Set output_uri to another path.",
        )
    if target.batch is not None and target.batch.errors_uri is not None:
        if target.batch.on_error != "skip":
            raise ConfigurationError(
                f"The batch job {deployment_name!r} lists rejected rows, but fails on the first one.",
                hint="Set on_error to skip, or leave errors_uri out.",
            )
        if batch_file(target.batch.errors_uri, "errors_uri") in (source, output):
            raise ConfigurationError(
                f"The batch job {deployment_name!r} lists rejected rows in its input or output.",
                hint="Set errors_uri to another path.",
            )
    return source, output


def batch_file(uri: str | None, field: str) -> str:
    """Return the absolute path that a path or a ``file://`` URI names, or the URI of an object store.

    A relative path is relative to the current folder of the process that provisions. A ``/`` at the end,
    which makes an output a folder, stays.

    Raises:
        ConfigurationError: it is missing, or names no file that a job on this machine can use.
    """
    if not uri:
        raise ConfigurationError(
            f"A batch inference job needs {field}, and none was given.",
            hint=f"Set deployment_target_config.{field} to a path or a URI.",
        )
    try:
        path = local_path(uri)
    except ConfigurationError as error:
        raise ConfigurationError(f"{field} is invalid: {error.message}", hint=error.hint) from None
    if path is None:
        return _stored(uri, field)
    # The output first grows under a longer name beside it.
    if len(path.name.encode()) > _LONGEST_NAME_BYTES:
        raise ConfigurationError(
            f"The file name of {field} is longer than {_LONGEST_NAME_BYTES} bytes.",
            hint="Choose a shorter name.",
        )
    return str(path.absolute()) + "/" * uri.endswith("/")


def _stored(uri: str, field: str) -> str:
    scheme = uri.partition(":")[0]
    library = _LIBRARIES.get(scheme)
    if library is None or "::" in uri:
        raise ConfigurationError(
            f"{field} has the scheme {scheme!r}, which batch jobs cannot use.",
            hint=f"Use a path, file:///, s3://, gs:// or az://; write a path that begins with `{scheme}:` as "
            f"`./{scheme}:`.",
        )
    if importlib.util.find_spec(library) is None:
        raise ConfigurationError(
            f"{field} has the scheme {scheme!r}, which needs {library}, and that is not installed.",
            hint=f"Run `pip install {library}`.",
        )
    return uri
