"""The commands that change deployments, and wait for what comes of them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer

from deployledger.adapters.cli import completion
from deployledger.adapters.cli.bulk import Bulk, DryRunOption, YesOption, at_once
from deployledger.adapters.cli.files import no_stream
from deployledger.adapters.cli.listing import (
    CreatedAfterFilter,
    CreatedBeforeFilter,
    Filters,
    ModelFilter,
    NameFilter,
    SinceFilter,
    StatusFilter,
    TagFilter,
    TypeFilter,
    UntilFilter,
)
from deployledger.adapters.cli.session import (
    ExitCode,
    Interruptible,
    OptionalReference,
    Output,
    OutputOption,
    Reference,
    Session,
    VerboseOption,
    session_for,
)
from deployledger.adapters.cli.status_commands import overview
from deployledger.adapters.cli.usage import UsageError
from deployledger.adapters.local import LocalTargetType

if TYPE_CHECKING:
    from deployledger.adapters.cli.asking import Request
    from deployledger.adapters.cli.overview import Overview
    from deployledger.domain.schemas import DeploymentRequest, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

    _Ended = tuple[DeploymentStatusResponse, Overview | None, Request | None]

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the operation is complete.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Seconds to wait; the operation then continues in the background.",
        show_default="no limit",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model-uri", help="The new model.", parser=no_stream, show_default="the same model"),
]
ReplicasOption = Annotated[
    int | None, typer.Option(help="The number of replicas; 1 for a new deployment.", show_default=False)
]
PortOption = Annotated[
    int | None,
    typer.Option(help="The port to serve on; a free one for a new deployment.", show_default=False),
]
ServingImageOption = Annotated[
    str | None,
    typer.Option(help="The container image that serves the model.", show_default=False),
]
CpuOption = Annotated[str | None, typer.Option(help="CPU per replica, for example 500m.", show_default=False)]
MemoryOption = Annotated[
    str | None, typer.Option(help="Memory per replica, for example 1Gi.", show_default=False)
]
GpuOption = Annotated[str | None, typer.Option(help="GPUs per replica.", show_default=False)]
TagOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A tag; repeatable.", show_default=False)
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        help="The input of a batch job: CSV or JSON lines; - copies standard input.",
        show_default=False,
    ),
]
OutputUriOption = Annotated[
    str | None,
    typer.Option(
        help="The file to which a batch job writes its predictions.", parser=no_stream, show_default=False
    ),
]

KeyOption = Annotated[
    str | None,
    typer.Option(
        help="A key of your choice: commands repeated with it take effect once.", show_default=False
    ),
]
ExpectedVersionOption = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse if the deployment has changed since this version.", show_default=False),
]


def deploy(
    model_uri: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_URI",
            help="A path, or a file://, models:/, runs:/ or mlflow_runs:/ URI.",
            parser=no_stream,
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="The deployment's name.", show_default=False)],
    type_: Annotated[
        LocalTargetType,
        typer.Option("--type", help="How the model runs."),
    ] = "api_service",
    replicas: ReplicasOption = None,
    port: PortOption = None,
    serving_image: ServingImageOption = None,
    cpu: CpuOption = None,
    memory: MemoryOption = None,
    gpu: GpuOption = None,
    tag: TagOption = None,
    input_uri: InputOption = None,
    output_uri: OutputUriOption = None,
    update_existing: Annotated[
        bool,
        typer.Option(
            "--update-existing", help="If the name is in use, update that deployment to this request."
        ),
    ] = False,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Deploy a model: fetch it, package it, then serve it or run it as a batch job.

    Examples:
        deployledger deploy model.onnx --name iris --replicas 2
        deployledger deploy models:/wine/2 --name wine --tag team=flowers
        deployledger deploy model.onnx --name scores --type batch_inference_job \
            --input rows.csv --output-uri scores.csv
    """
    session = session_for(output, verbose)
    input_uri = _input(session, input_uri)

    def request() -> "DeploymentRequest":
        from deployledger.domain.schemas import DeploymentRequest, DeploymentTargetConfig, ResourceConfig

        return DeploymentRequest(
            model_uri=model_uri,
            deployment_name=name,
            deployment_target_config=DeploymentTargetConfig(
                type=type_,
                serving_image=serving_image,
                replicas=1 if replicas is None else replicas,
                port=port,
                input_uri=_absolute(input_uri),
                output_uri=_absolute(output_uri),
            ),
            resource_allocation=ResourceConfig(cpu_request=cpu, memory_request=memory, gpu_request=gpu)
            if cpu or memory or gpu
            else None,
            version_strategy="update_existing" if update_existing else "new",
            tags=_tags(tag),
        )

    _command(
        session,
        lambda service: service.deploy_model(request(), idempotency_key=idempotency_key),
        wait,
        timeout,
        model_uri=model_uri,
    )


def update(
    deployment: Reference,
    model_uri: ModelOption = None,
    name: Annotated[
        str | None, typer.Option(help="The new name, also in the model's URLs.", show_default="the same name")
    ] = None,
    replicas: ReplicasOption = None,
    port: PortOption = None,
    serving_image: ServingImageOption = None,
    cpu: CpuOption = None,
    memory: MemoryOption = None,
    gpu: GpuOption = None,
    tag: TagOption = None,
    input_uri: InputOption = None,
    output_uri: OutputUriOption = None,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Update a deployment to a new revision; options not given keep their values.

    The old revision keeps serving until the new one is ready. Without options, the new revision has the same
    model, fetched again.

    Examples:
        deployledger update iris --model-uri model-v2.onnx
        deployledger update iris --replicas 3 --tag team=flowers
    """
    session = session_for(output, verbose)
    input_uri = _input(session, input_uri)
    resources = {"cpu_request": cpu, "memory_request": memory, "gpu_request": gpu}

    async def command(service: "DeploymentService") -> "DeploymentStatusResponse":
        from deployledger.domain.schemas import DeploymentRequest, DeploymentTargetConfig, ResourceConfig

        found = await service.find_deployment_id(deployment, to_change=True)
        current = await service.get_deployment_status(found)
        allocation = current.resource_allocation.model_dump() if current.resource_allocation else {}
        allocation |= _given(resources)
        target = {
            "replicas": replicas,
            "port": port,
            "serving_image": serving_image,
            "input_uri": _absolute(input_uri),
            "output_uri": _absolute(output_uri),
        }
        return await service.update_deployment(
            current.deployment_id,
            DeploymentRequest(
                model_uri=model_uri or current.model_uri,
                deployment_name=name or current.deployment_name,
                deployment_target_config=DeploymentTargetConfig(
                    **{**current.deployment_target_config.model_dump(), **_given(target)}
                ),
                resource_allocation=ResourceConfig(**allocation) if allocation else None,
                tags={**current.tags, **_tags(tag)},
            ),
            idempotency_key=idempotency_key,
            expected_version=expected_version,
        )

    _command(session, command, wait, timeout)


def rollback(
    deployment: Reference,
    to_revision: Annotated[
        int,
        typer.Option(
            autocompletion=completion.revision_numbers, help="The revision to return to.", show_default=False
        ),
    ],
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Roll back to an earlier revision, from exactly the same bytes.

    Examples:
        deployledger rollback iris --to-revision 1
    """
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.rollback_deployment(
            found, to_revision, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
    )


def retry(
    deployment: OptionalReference = None,
    status: StatusFilter = None,
    name: NameFilter = None,
    tag: TagFilter = None,
    model_uri: ModelFilter = None,
    type_: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    created_after: CreatedAfterFilter = None,
    created_before: CreatedBeforeFilter = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Retry what failed or was cancelled: one deployment, or all that match filters.

    With filters, the command shows a plan first and asks for confirmation; a deployment that changes
    after that is skipped.

    Examples:
        deployledger retry iris
        deployledger retry --status failed --since 12h
    """
    filters = Filters(
        status=status,
        name=name,
        tag=tag,
        model_uri=model_uri,
        type_=type_,
        created_after=created_after,
        created_before=created_before,
        since=since,
        until=until,
    )
    session = session_for(output, verbose)
    reference = at_once(
        deployment,
        filters,
        dry_run=dry_run,
        expected_version=expected_version,
        idempotency_key=idempotency_key,
    )
    if reference is None:
        Bulk(
            session,
            "retry",
            filters,
            deployment,
            yes=yes,
            dry_run=dry_run,
            wait=wait,
            timeout=timeout,
        ).run()
        return
    _command_on(
        session,
        reference,
        lambda service, found: service.retry_deployment(
            found, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
    )


def cancel(
    deployment: OptionalReference = None,
    status: StatusFilter = None,
    name: NameFilter = None,
    tag: TagFilter = None,
    model_uri: ModelFilter = None,
    type_: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    created_after: CreatedAfterFilter = None,
    created_before: CreatedBeforeFilter = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Cancel the operation in progress; an earlier revision keeps serving.

    With filters, the command shows a plan first and asks for confirmation, as `retry` does.

    Examples:
        deployledger cancel iris
        deployledger cancel --status creating --tag team=flowers
    """
    filters = Filters(
        status=status,
        name=name,
        tag=tag,
        model_uri=model_uri,
        type_=type_,
        created_after=created_after,
        created_before=created_before,
        since=since,
        until=until,
    )
    session = session_for(output, verbose)
    reference = at_once(
        deployment,
        filters,
        dry_run=dry_run,
        expected_version=expected_version,
        idempotency_key=idempotency_key,
    )
    if reference is None:
        Bulk(session, "cancel", filters, deployment, yes=yes, dry_run=dry_run).run()
        return

    async def command(service: "DeploymentService") -> "_Ended":
        found = await service.find_deployment_id(reference, to_change=True)
        await service.cancel_deployment(
            found, idempotency_key=idempotency_key, expected_version=expected_version
        )
        await service.settled(found)
        return await _ended(session, service, await service.get_deployment_status(found))

    ended = session.run(command)
    with session.reporting():
        _print(session, ended)


def delete(
    deployment: OptionalReference = None,
    status: StatusFilter = None,
    name: NameFilter = None,
    tag: TagFilter = None,
    model_uri: ModelFilter = None,
    type_: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    created_after: CreatedAfterFilter = None,
    created_before: CreatedBeforeFilter = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Stop and delete a deployment, or all that match filters; their history is kept.

    With filters, the command shows a plan first and asks for confirmation, as `retry` does.

    Examples:
        deployledger delete iris
        deployledger delete --status failed --until 30d --dry-run
    """
    filters = Filters(
        status=status,
        name=name,
        tag=tag,
        model_uri=model_uri,
        type_=type_,
        created_after=created_after,
        created_before=created_before,
        since=since,
        until=until,
    )
    session = session_for(output, verbose)
    reference = at_once(
        deployment,
        filters,
        dry_run=dry_run,
        expected_version=expected_version,
        idempotency_key=idempotency_key,
    )
    if reference is None:
        Bulk(
            session,
            "delete",
            filters,
            deployment,
            yes=yes,
            dry_run=dry_run,
            wait=wait,
            timeout=timeout,
        ).run()
        return
    _command_on(
        session,
        reference,
        lambda service, found: service.delete_deployment(
            found, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
        deleting=True,
    )


def resume(
    deployment: Reference,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Resume an interrupted operation, or restart a server that is gone.

    Examples:
        deployledger resume iris
    """
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.resume_deployment(found),
        wait,
        timeout,
        stops_leftovers=False,  # it is what stops them
    )


def _command_on(
    session: Session,
    reference: str,
    command: "Callable[[DeploymentService, UUID], Awaitable[DeploymentStatusResponse]]",
    wait: bool,
    timeout: float | None,
    *,
    deleting: bool = False,
    stops_leftovers: bool = True,
) -> None:
    async def find_and_command(service: "DeploymentService") -> "DeploymentStatusResponse":
        return await command(service, await service.find_deployment_id(reference, to_change=True))

    _command(session, find_and_command, wait, timeout, deleting=deleting, stops_leftovers=stops_leftovers)


def _command(
    session: Session,
    command: "Callable[[DeploymentService], Awaitable[DeploymentStatusResponse]]",
    wait: bool,
    timeout: float | None,
    *,
    deleting: bool = False,
    stops_leftovers: bool = True,
    model_uri: str | None = None,
) -> None:
    """Give a command; wait for its job here, or leave it to a process in the background.

    Args:
        model_uri: what it deploys under a name that may be in use.
    """
    from deployledger.adapters.cli.background import resume_in_background, stop_leftovers
    from deployledger.adapters.cli.names_in_use import explain
    from deployledger.adapters.cli.options import named_by_options
    from deployledger.adapters.cli.waiting import outcome
    from deployledger.adapters.cli.waiting import wait as wait_for
    from deployledger.domain.exceptions import NameInUseError

    accepted: list[DeploymentStatusResponse] = []

    async def give(service: "DeploymentService") -> "_Ended":
        if stops_leftovers:  # before the command, whose own work has nobody on it for a moment
            await stop_leftovers(service)
        with named_by_options():
            try:
                answer = await command(service)
            except NameInUseError as error:
                await explain(error, service, model_uri)
                raise
        accepted.append(answer)
        if not wait:
            return await _ended(session, service, answer)
        async with asyncio.timeout(timeout):
            await wait_for(session, service, answer)
        await service.settled(answer.deployment_id)
        current = await service.get_deployment_status(answer.deployment_id)
        return await _ended(session, service, current)

    try:
        ended = session.run(give)
    except KeyboardInterrupt:
        _interrupted(session, accepted)
    except TimeoutError:
        name = accepted[0].deployment_name
        resume_in_background(accepted[0].deployment_id)
        session.fail(
            f"Deployment {name!r} was still in progress after {timeout:g} seconds.",
            f"It goes on in the background: `deployledger status {name} --watch` shows how it is.",
            ExitCode.FAILED,
            "timeout",
        )
    answer = ended[0]
    if not wait:
        resume_in_background(answer.deployment_id)
    with session.reporting(outcome(answer, deleting=deleting) if wait else ExitCode.DONE):
        _print(session, ended)


def _interrupted(session: Session, accepted: "list[DeploymentStatusResponse]") -> NoReturn:
    if accepted:
        name = accepted[0].deployment_name
        session.stderr.print(
            f"Interrupted. The deployment is not lost: `deployledger resume {name}` goes on with it, "
            f"`deployledger cancel {name}` calls it off.",
            highlight=False,
            soft_wrap=True,
        )
    raise SystemExit(128 + signal.SIGINT)


async def _ended(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> "_Ended":
    """Return what a command ended with, and for people what they are shown of it."""
    if session.is_json:
        return deployment, None, None
    request = None
    if deployment.status == "active" and not (deployment.simulated or session.is_wide):
        from deployledger.adapters.cli.asking import example_request

        request = await example_request(service, deployment)
    return deployment, await overview(session, service, deployment), request


def _print(session: Session, ended: "_Ended") -> None:
    deployment, seen, request = ended
    if seen is None:
        session.print_json(deployment)
    elif session.is_wide:
        from deployledger.adapters.cli.rendering import deployment_card

        session.show(deployment_card(deployment, recorded=seen.recorded))
    else:
        from deployledger.adapters.cli.overview import outcome_lines

        session.show(outcome_lines(seen, request))


def _tags(pairs: list[str] | None) -> dict[str, str]:
    tags: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError("A tag is KEY=VALUE, but one has no KEY or no '='.", option="--tag")
        if tags.setdefault(key, value) != value:
            raise UsageError(
                f"The tag {key!r} was given with two values; a tag has only one.", option="--tag"
            )
    return tags


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _input(session: Session, uri: str | None) -> str | None:
    """Return what a batch job reads: of standard input, a copy that is kept."""
    if uri != "-":
        return uri
    with session.errors(), Interruptible():
        from deployledger.adapters.cli.files import kept_input
        from deployledger.adapters.settings import load_settings

        return str(kept_input(load_settings().home / "inputs"))


def _absolute(uri: str | None) -> str | None:
    """Return a relative path as an absolute one: the job may run in another folder."""
    from deployledger.service.local_files import local_path

    path = local_path(uri) if uri is not None else None
    return uri if path is None or path.is_absolute() else str(path.absolute())
