"""Pins references: an alias, a stage or "latest" becomes the number of a version that exists."""

from typing import Any

from deployledger.adapters.mlflow.connection import Server
from deployledger.adapters.mlflow.references import LoggedModel, ModelReference, RegisteredModel, RunArtifact


def pin(server: Server, reference: ModelReference) -> ModelReference:
    """Return a reference to exactly one version, run or logged model, which MLflow has.

    Raises:
        ModelRegistryError: MLflow does not have it.
    """
    match reference:
        case RegisteredModel():
            return pin_version(server, reference)
        case LoggedModel(model_id=model_id):
            server.client.get_logged_model(model_id)
        case RunArtifact(run_id=run_id):
            server.client.get_run(run_id)
    return reference


def pin_version(server: Server, reference: RegisteredModel) -> RegisteredModel:
    """Return the reference with the number of the version that it means now."""
    name = reference.name
    if reference.version:
        version = server.client.get_model_version(name, reference.version)
    elif reference.alias:
        version = server.client.get_model_version_by_alias(name, reference.alias)
    else:
        version = _latest(server, reference)
    return reference.pinned(str(version.version))


def _latest(server: Server, reference: RegisteredModel) -> Any:
    quote = '"' if "'" in reference.name else "'"
    stage = reference.stage
    token: str | None = None
    while True:
        page = server.client.search_model_versions(
            f"name={quote}{reference.name}{quote}",
            max_results=100 if stage else 1,
            order_by=["version_number DESC"],
            page_token=token,
        )
        for version in page:
            if stage is None or (version.current_stage or "").lower() == stage.lower():
                return version
        token = page.token
        # The newest version is always on the first page; only a stage is worth reading on for.
        if not token or stage is None:
            raise server.report.not_found(
                f"there is no version in stage {stage!r}." if stage else "there is no such registered model.",
                hint=""
                if stage is None
                else "A number, 'latest' or @<alias> names a version without stages.",
            )
