"""The request schemas of the usage guide."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployledger.domain.bounds import LONGEST_LINE, check_tags
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.handles import as_id, path_of
from deployledger.domain.redaction import shown
from deployledger.domain.target_types import BATCH_JOB, TargetType

DEPLOYMENT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"^\+?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})(m|[numk]|[KMGTPE]i|[MGTPE]|[eE][+-]?\d{1,2})?$", re.ASCII
)

_LONGEST_FIELD = 64
_LARGEST_COLUMNS = 32_768
_NO_TEXT = re.compile(r"[\x00-\x1f\ud800-\udfff]")


def _check_name(name: str) -> str:
    if not DEPLOYMENT_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a legal deployment name: "
            "1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit"
        )
    if as_id(name) is not None:
        raise ValueError(f"{shown(name)} is an id; choose a name that cannot be mistaken for one")
    return name


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    if _NO_TEXT.search(text):
        raise ValueError("it has control characters, or bytes that are not UTF-8")
    return text


def _check_tags(tags: dict[str, Any]) -> dict[str, Any]:
    check_tags(tags)
    return tags


def _check_quantity(quantity: str) -> str:
    if not _QUANTITY.fullmatch(quantity):
        raise ValueError(f"{shown(quantity)} is not a Kubernetes quantity such as '500m', '2' or '1.5Gi'")
    return quantity


Text = Annotated[str, Field(max_length=LONGEST_LINE), AfterValidator(_check_text)]
"""One line of text: a URI, the name of an image, an actor."""

Quantity = Annotated[str, AfterValidator(_check_quantity)]


if TYPE_CHECKING:  # pydantic does not export its metaclass
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import ErrorDetails
else:
    ModelMetaclass = type(BaseModel)


def problem_of(error: "ErrorDetails") -> str:
    """Return what pydantic found, without its word for errors of ours."""
    return error["msg"].removeprefix("Value error, ").removesuffix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int) or (part.isidentifier() and len(part) <= _LONGEST_FIELD):
        return str(part)
    return shown(part)


class _RequestMeta(ModelMetaclass):
    """Makes the constructors of requests raise what the usage guide says: ConfigurationError.

    Only the constructors: validation by pydantic itself, as in a FastAPI body, is pydantic's.
    """

    if not TYPE_CHECKING:  # type checkers go on seeing the fields as the constructor's parameters

        def __call__(self, *args: Any, **fields: Any) -> Any:
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                problems = "; ".join(
                    f"{'.'.join(map(_step, problem['loc']))}: {problem_of(problem)}"
                    for problem in error.errors(include_url=False)
                )
                problems = problems.removeprefix(": ")
                raise ConfigurationError(f"Invalid request: {problems}.") from error


class Schema(BaseModel, metaclass=_RequestMeta):
    """Base of request schemas: frozen, and a misspelt field is an error, not silence."""

    # An error that repeated its input would repeat a credential under a misspelt field.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BatchOptions(Schema):
    """How a batch inference job reads its input and writes its output.

    Attributes:
        workers: the number of processes.
        on_error: whether a row that cannot be scored fails the job, or is skipped.
        errors_uri: the CSV file that lists skipped rows, with file, line, column, value and reason.
        column_types: types of columns by name, such as ``int64``; a model's own types take precedence.
        null_values: the texts that mark missing cells in CSV; pandas' markers if it is null.
        misfit: whether a prediction that does not fit the columns of the output, which the first ones decide,
            makes its row one that cannot be scored, or becomes null.
    """

    workers: int = Field(default=1, ge=1, le=256)
    on_error: Literal["fail", "skip"] = "fail"
    errors_uri: Text | None = None
    column_types: dict[str, str] | None = None
    null_values: list[str] | None = None
    misfit: Literal["fail", "null"] = "fail"

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        size = len(self.model_dump_json(include={"column_types", "null_values"}))
        if size > _LARGEST_COLUMNS:
            raise ValueError(
                f"column_types and null_values have {size} bytes as JSON, over {_LARGEST_COLUMNS}"
            )
        return self


class DeploymentTargetConfig(Schema):
    """Where and how a model is to run.

    Attributes:
        type: a server that answers requests, a job that scores a file once, or an edge device.
        serving_image: the container image to serve with, for orchestrators that run containers.
        replicas: how many copies serve the model.
        port: the TCP port to serve on; none asks for a free one.
        instance_type: the kind of machine, for orchestrators that offer several.
        input_uri: the input of a batch inference job: a file, a folder, or a pattern such as ``*.parquet``.
        output_uri: the file to which a batch inference job writes its predictions; a folder ends with ``/``.
        batch: how a batch inference job reads and writes; not stored if it is not given.
    """

    type: TargetType
    serving_image: Text | None = None
    replicas: int = Field(default=1, ge=1, le=1000)
    port: int | None = Field(default=None, ge=1, le=65535)
    instance_type: Text | None = None
    input_uri: Text | None = None
    output_uri: Text | None = None
    batch: BatchOptions | None = Field(default=None, exclude_if=lambda batch: batch is None)

    @property
    def is_batch_job(self) -> bool:
        """Whether it is a batch inference job."""
        return self.type == BATCH_JOB


class ResourceConfig(Schema):
    """The resources that a replica requests, as Kubernetes quantities (``500m``, ``2``, ``1.5Gi``).

    Attributes:
        cpu_request: CPU.
        memory_request: memory.
        gpu_request: GPUs.
    """

    cpu_request: Quantity | None = None
    memory_request: Quantity | None = None
    gpu_request: Quantity | None = None


class DeploymentRequest(Schema):
    """A request to deploy a model, or to update a deployment.

    Attributes:
        model_uri: what to deploy: a path, ``file://``, ``models:/``, ``runs:/`` or ``mlflow_runs:/`` URI.
        deployment_name: unique among the deployments that are not deleted.
        deployment_target_config: where and how to run it.
        resource_allocation: the resources of each replica.
        version_strategy: under a name in use, ``new`` is an error and ``update_existing`` an update.
        tags: anything JSON can hold; recorded, and shown with the status.
    """

    model_uri: Text
    deployment_name: Annotated[str, AfterValidator(_check_name)]
    deployment_target_config: DeploymentTargetConfig
    resource_allocation: ResourceConfig | None = None
    version_strategy: Literal["new", "update_existing"] = "new"
    tags: Annotated[dict[str, Any], AfterValidator(_check_tags)] | None = None

    @model_validator(mode="after")
    def _name_files(self) -> Self:
        """Refuse URIs of files that name none. Not in the parts, which stored events have as well."""
        target = self.deployment_target_config
        for name, uri in (
            ("model_uri", self.model_uri),
            ("input_uri", target.input_uri),
            ("output_uri", target.output_uri),
            ("errors_uri", target.batch and target.batch.errors_uri),
        ):
            try:
                path_of(uri or "")
            except ConfigurationError as error:
                raise ValueError(f"{name}: {error}") from None
        return self
