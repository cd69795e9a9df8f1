"""The commands that change deployments, and wait for the outcome."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer

from deployledger.adapters.cli import completion
from deployledger.adapters.cli.batch_options import BatchArguments
from deployledger.adapters.cli.bulk import Bulk, Command, Consent, Waiting, at_once
from deployledger.adapters.cli.files import no_stream
from deployledger.adapters.cli.filters import FilterOptions, Filters, tags
from deployledger.adapters.cli.option_groups import GroupOf
from deployledger.adapters.cli.options import OptionalReference, Reference, SessionOptions
from deployledger.adapters.cli.session import ExitCode, Session
from deployledger.adapters.cli.status_commands import overview
from deployledger.adapters.local import LocalTargetType

if TYPE_CHECKING:
    from deployledger.adapters.cli.example_commands import ExampleCommands
    from deployledger.adapters.cli.overview import Overview
    from deployledger.domain.responses import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

    _Ended = tuple[DeploymentStatusResponse, Overview | None, ExampleCommands | None]

_DESCRIBED_WITHIN_SECONDS = 2.0

KeyOption = Annotated[
    str | None, typer.Option(help="A key of your choice: commands repeated with it take effect once.")
]


@dataclass(frozen=True, kw_only=True)
class _Specified:
    """What a revision is to be, as it was typed; None where not given."""

    replicas: Annotated[int | None, typer.Option(help="The number of replicas; 1 for a new deployment.")] = (
        None
    )
    port: Annotated[
        int | None, typer.Option(help="The port to serve on; a free one for a new deployment.")
    ] = None
    serving_image: Annotated[str | None, typer.Option(help="The container image that serves the model.")] = (
        None
    )
    cpu: Annotated[str | None, typer.Option(help="CPU per replica, for example 500m.")] = None
    memory: Annotated[str | None, typer.Option(help="Memory per replica, for example 1Gi.")] = None
    gpu: Annotated[str | None, typer.Option(help="GPUs per replica.")] = None
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A tag; repeatable.")] = None

    def target(self) -> dict[str, Any]:
        return _given(
            replicas=self.replicas,
            port=self.port,
            serving_image=self.serving_image,
        )

    def resources(self) -> dict[str, Any]:
        return _given(cpu_request=self.cpu, memory_request=self.memory, gpu_request=self.gpu)


@dataclass(frozen=True, kw_only=True)
class _Guards:
    """What keeps a command from taking effect twice, or on what it was not meant for."""

    expected_version: Annotated[
        int | None, typer.Option(min=1, help="Refuse if the deployment has changed since this version.")
    ] = None
    idempotency_key: KeyOption = None


_SpecifiedOptions = Annotated[_Specified, GroupOf(_Specified)]
_BatchOptions = Annotated[BatchArguments, GroupOf(BatchArguments)]
_GuardOptions = Annotated[_Guards, GroupOf(_Guards)]
_WaitingOptions = Annotated[Waiting, GroupOf(Waiting)]
_ConsentOptions = Annotated[Consent, GroupOf(Consent)]


def deploy(
    model_uri: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_URI",
            help="A path, or a file://, models:/, runs:/ or mlflow_runs:/ URI.",
            parser=no_stream,
        ),
    ],
    name: Annotated[str, typer.Option(help="The deployment's name.")],
    *,
    type_: Annotated[LocalTargetType, typer.Option("--type", help="How the model runs.")] = "api_service",
    specified: _SpecifiedOptions,
    batch: _BatchOptions,
    update_existing: Annotated[
        bool,
        typer.Option(
            "--update-existing", help="If the name is in use, update that deployment to this request."
        ),
    ] = False,
    idempotency_key: KeyOption = None,
    waiting: _WaitingOptions,
    session: SessionOptions,
) -> None:
    """Deploy a model: fetch it, package it, then serve it or run it as a batch job.

    Examples:
        deployledger deploy model.onnx --name iris --replicas 2
        deployledger deploy models:/wine/2 --name wine --tag team=flowers
        deployledger deploy model.onnx --name scores --type batch_inference_job \
            --input rows.csv --output-uri scores.csv
    """
    with session.errors():
        target, resources = {**specified.target(), **batch.places()}, specified.resources()
        options = batch.options()

    async def command(service: "DeploymentService") -> "DeploymentStatusResponse":
        from deployledger.domain.requests import (
            BatchOptions,
            DeploymentRequest,
            DeploymentTargetConfig,
            ResourceConfig,
        )

        request = DeploymentRequest(
            model_uri=model_uri,
            deployment_name=name,
            deployment_target_config=DeploymentTargetConfig(
                type=type_, **target, batch=BatchOptions(**options) if options else None
            ),
            resource_allocation=ResourceConfig(**resources) if resources else None,
            version_strategy="update_existing" if update_existing else "new",
            tags=tags(specified.tag),
        )
        return await service.deploy_model(request, idempotency_key=idempotency_key)

    _run(session, command, waiting, model_uri=model_uri)


def update(
    deployment: Reference,
    *,
    model_uri: Annotated[
        str | None, typer.Option(help="The new model.", parser=no_stream, show_default="the same model")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The new name, also in the model's URLs.", show_default="the same name")
    ] = None,
    specified: _SpecifiedOptions,
    batch: _BatchOptions,
    guards: _GuardOptions,
    waiting: _WaitingOptions,
    session: SessionOptions,
) -> None:
    """Update a deployment to a new revision; options not given keep their values.

    The old revision keeps serving until the new one is ready. Without options, the new revision has the same
    model, fetched again.

    Examples:
        deployledger update iris --model-uri model-v2.onnx
        deployledger update iris --replicas 3 --tag team=flowers
    """
    with session.errors():
        target, resources = {**specified.target(), **batch.places()}, specified.resources()
        options = batch.options()

    async def command(service: "DeploymentService") -> "DeploymentStatusResponse":
        from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig, ResourceConfig

        deployment_id = await service.find_deployment_id(deployment, to_change=True)
        current = await service.get_deployment_status(deployment_id)
        configured = current.deployment_target_config.model_dump() | target
        if options:
            configured["batch"] = configured.get("batch", {}) | options
        before = current.resource_allocation.model_dump() if current.resource_allocation else {}
        allocation = before | resources
        request = DeploymentRequest(
            model_uri=model_uri or current.model_uri,
            deployment_name=name or current.deployment_name,
            deployment_target_config=DeploymentTargetConfig(**configured),
            resource_allocation=ResourceConfig(**allocation) if allocation else None,
            tags=current.tags | tags(specified.tag),
        )
        return await service.update_deployment(current.deployment_id, request, **asdict(guards))

    _run(session, command, waiting)


def rollback(
    deployment: Reference,
    *,
    to_revision: Annotated[
        int, typer.Option(autocompletion=completion.revision_numbers, help="The revision to return to.")
    ],
    guards: _GuardOptions,
    waiting: _WaitingOptions,
    session: SessionOptions,
) -> None:
    """Roll back to an earlier revision, from exactly the same bytes.

    Examples:
        deployledger rollback iris --to-revision 1
    """
    _run_on(
        session,
        deployment,
        lambda service, id_: service.rollback_deployment(id_, to_revision, **asdict(guards)),
        waiting,
    )


def retry(
    deployment: OptionalReference = None,
    *,
    filters: FilterOptions,
    consent: _ConsentOptions,
    guards: _GuardOptions,
    waiting: _WaitingOptions,
    session: SessionOptions,
) -> None:
    """Retry what failed or was cancelled: one deployment, or all that match filters.

    With filters, the command shows a plan first and asks for confirmation; a deployment that changes
    after that is skipped.

    Examples:
        deployledger retry iris
        deployledger retry --status failed --since 12h
    """
    _one_or_many(session, Command.RETRY, deployment, filters, consent, guards, waiting)


def cancel(
    deployment: OptionalReference = None,
    *,
    filters: FilterOptions,
    consent: _ConsentOptions,
    guards: _GuardOptions,
    session: SessionOptions,
) -> None:
    """Cancel the operation in progress; an earlier revision keeps serving.

    With filters, the command shows a plan first and asks for confirmation, as `retry` does.

    Examples:
        deployledger cancel iris
        deployledger cancel --status creating --tag team=flowers
    """
    _one_or_many(session, Command.CANCEL, deployment, filters, consent, guards, Waiting())


def delete(
    deployment: OptionalReference = None,
    *,
    filters: FilterOptions,
    consent: _ConsentOptions,
    guards: _GuardOptions,
    waiting: _WaitingOptions,
    session: SessionOptions,
) -> None:
    """Stop and delete a deployment, or all that match filters; their history is kept.

    With filters, the command shows a plan first and asks for confirmation, as `retry` does.

    Examples:
        deployledger delete iris
        deployledger delete --status failed --until 30d --dry-run
    """
    _one_or_many(session, Command.DELETE, deployment, filters, consent, guards, waiting)


def resume(deployment: Reference, *, waiting: _WaitingOptions, session: SessionOptions) -> None:
    """Resume an interrupted operation, or restart a server that is gone.

    Examples:
        deployledger resume iris
    """
    _run_on(
        session,
        deployment,
        lambda service, id_: service.resume_deployment(id_),
        waiting,
        stops_leftovers=False,  # it is what stops them
    )


def _one_or_many(
    session: Session,
    command: Command,
    deployment: str | None,
    filters: Filters,
    consent: Consent,
    guards: _Guards,
    waiting: Waiting,
) -> None:
    """Send a command to one deployment at once, or to all that match after a plan."""
    reference = at_once(deployment, filters, consent, asdict(guards))
    if reference is None:
        Bulk(session, command, filters, deployment, consent, waiting).run()
    else:
        _run_on(
            session,
            reference,
            lambda service, id_: command.send(service, id_, **asdict(guards)),
            waiting,
            command,
        )


def _run_on(
    session: Session,
    reference: str,
    send: "Callable[[DeploymentService, UUID], Awaitable[DeploymentStatusResponse]]",
    waiting: Waiting,
    command: Command | None = None,
    *,
    stops_leftovers: bool = True,
) -> None:
    async def find_and_send(service: "DeploymentService") -> "DeploymentStatusResponse":
        return await send(service, await service.find_deployment_id(reference, to_change=True))

    _run(session, find_and_send, waiting, command, stops_leftovers=stops_leftovers)


def _run(
    session: Session,
    send: "Callable[[DeploymentService], Awaitable[DeploymentStatusResponse]]",
    waiting: Waiting,
    command: Command | None = None,
    *,
    stops_leftovers: bool = True,
    model_uri: str | None = None,
) -> None:
    """Send a command; wait for its job here, or leave it to a process in the background.

    Args:
        model_uri: what it deploys under a name that may be in use.
    """
    from deployledger.adapters.cli.background import resume_in_background, stop_leftovers
    from deployledger.adapters.cli.names_in_use import explain
    from deployledger.adapters.cli.usage import fields_as_options
    from deployledger.adapters.cli.waiting import outcome, wait
    from deployledger.domain.exceptions import NameInUseError

    accepted: list[DeploymentStatusResponse] = []

    async def work(service: "DeploymentService") -> "_Ended":
        if stops_leftovers:  # before the command, whose own work has nobody on it for a moment
            await stop_leftovers(service)
        with fields_as_options():
            try:
                answer = await send(service)
            except NameInUseError as error:
                await explain(error, service, model_uri)
                raise
        accepted.append(answer)
        if not waiting.wait:
            return await _ended(session, service, answer)
        async with asyncio.timeout(waiting.timeout):
            await wait(session, service, answer)
        await service.settled(answer.deployment_id)
        current = await service.get_deployment_status(answer.deployment_id)
        return await _ended(session, service, current)

    try:
        ended = session.run(work)
    except KeyboardInterrupt:
        _interrupted(session, accepted)
    except TimeoutError:
        name = accepted[0].deployment_name
        resume_in_background(accepted[0].deployment_id)
        session.fail(
            f"Deployment {name!r} was still in progress after {waiting.timeout:g} seconds.",
            f"It continues in the background; `deployledger status {name} --watch` follows it.",
            ExitCode.FAILED,
            "timeout",
        )
    answer = ended[0]
    if not waiting.wait:
        resume_in_background(answer.deployment_id)
    with session.reporting(outcome(answer, command) if waiting.wait else ExitCode.DONE):
        _print(session, ended)


def _interrupted(session: Session, accepted: "list[DeploymentStatusResponse]") -> NoReturn:
    if accepted:
        name = accepted[0].deployment_name
        session.note(
            f"Interrupted. The deployment is not lost: `deployledger resume {name}` continues it, "
            f"`deployledger cancel {name}` cancels it."
        )
    raise SystemExit(int(ExitCode.INTERRUPTED))


async def _ended(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> "_Ended":
    """Return what a command ended with, and for people what they are shown of it."""
    if session.is_json:
        return deployment, None, None
    examples = None
    if deployment.status == "active" and not (deployment.simulated or session.is_wide):
        examples = await asyncio.to_thread(_examples, deployment)
    return deployment, await overview(session, service, deployment), examples


def _examples(deployment: "DeploymentStatusResponse") -> "ExampleCommands | None":
    """Return commands that query a deployment; None if it does not describe its model."""
    from deployledger.adapters.cli.example_commands import ExampleCommands
    from deployledger.adapters.endpoint import Endpoint
    from deployledger.domain.exceptions import ExternalServiceError

    url, name = deployment.endpoint_url or "", deployment.deployment_name
    if not url.startswith(("http://", "https://")):
        return None
    try:
        model = Endpoint(url, _DESCRIBED_WITHIN_SECONDS).describe(name)
    except ExternalServiceError:
        return None
    return ExampleCommands(name, url, model) if model is not None else None


def _print(session: Session, ended: "_Ended") -> None:
    deployment, seen, examples = ended
    if seen is None:
        session.print_json(deployment)
    elif session.is_wide:
        from deployledger.adapters.cli.deployment_card import deployment_card

        session.show(deployment_card(deployment, recorded=seen.recorded))
    else:
        from deployledger.adapters.cli.overview import outcome_lines

        session.show(outcome_lines(seen, examples))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
