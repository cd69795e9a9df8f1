"""The commands, as Typer sees them."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn
from uuid import UUID

import typer

from deployledger.adapters.cli import (
    audit_commands,
    evidence_commands,
    log_commands,
    past_commands,
    projection_commands,
    replay_command,
)
from deployledger.adapters.cli.past_commands import AsOfOption
from deployledger.adapters.cli.session import (
    ExitCode,
    Interruptible,
    OpenService,
    Output,
    OutputOption,
    Reference,
    Session,
    VerboseOption,
    escaped,
    session_for,
    use,
)

if TYPE_CHECKING:
    from datetime import datetime

    from deployledger.domain.ports import Observation
    from deployledger.domain.schemas import DeploymentPage, DeploymentRequest, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

app = typer.Typer(
    name="deployledger",
    help="Deploy machine-learning models, with a complete history of how that came to be.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(log_commands.database, name="db")
app.add_typer(log_commands.log, name="log")
app.add_typer(projection_commands.projections, name="projections")
audit_commands.audit.command()(evidence_commands.export)
audit_commands.audit.command()(evidence_commands.verify_evidence)
app.add_typer(audit_commands.audit, name="audit")

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the work is done.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Seconds to wait; after that the work goes on in the background.",
        show_default="no limit",
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model-uri", help="Another model.", show_default="the same model")
]
ReplicasOption = Annotated[int | None, typer.Option(help="How many copies serve.", show_default="1")]
PortOption = Annotated[int | None, typer.Option(help="The port to serve on.", show_default="a free one")]
ServingImageOption = Annotated[
    str | None, typer.Option(help="The container image to serve with.", show_default=False)
]
CpuOption = Annotated[str | None, typer.Option(help="CPU for each replica, as in 500m.", show_default=False)]
MemoryOption = Annotated[
    str | None, typer.Option(help="Memory for each replica, as in 1Gi.", show_default=False)
]
GpuOption = Annotated[str | None, typer.Option(help="GPUs for each replica.", show_default=False)]
TagOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A tag; may be given again.", show_default=False)
]
InputOption = Annotated[
    str | None, typer.Option("--input", help="What a batch job reads: CSV or JSON lines.", show_default=False)
]
OutputUriOption = Annotated[
    str | None, typer.Option(help="Where a batch job writes its predictions.", show_default=False)
]

KeyOption = Annotated[
    str | None,
    typer.Option(help="A name for this command: repeated with it, it takes effect once.", show_default=False),
]
ExpectedVersionOption = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse if the deployment is not at this version any more.", show_default=False),
]


def run(open_service: OpenService) -> NoReturn:
    """Run the command line on a service, and exit."""
    use(open_service)
    app()
    raise SystemExit(int(ExitCode.DONE))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        sys.stdout.write(f"deployledger {version('deployledger')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy machine-learning models, with a complete history of how that came to be."""


@app.command()
def deploy(
    model_uri: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_URI",
            help="A path, or a file://, models:/, runs:/ or mlflow_runs:/ URI.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="The deployment's name.", show_default=False)],
    type_: Annotated[
        Literal["api_service", "batch_inference_job", "edge_device"],
        typer.Option("--type", help="What to make of the model."),
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
            "--update-existing", help="If the name is in use, make that deployment what is given here."
        ),
    ] = False,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Deploy a model: fetch it, package it, and serve it or run it."""
    session = session_for(output, verbose)

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
    )


@app.command()
def update(
    deployment: Reference,
    model_uri: ModelOption = None,
    name: Annotated[
        str | None, typer.Option(help="Another name, also in the model's URLs.", show_default="the same name")
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
    """Make a new revision; what is not given stays as it is.

    What serves goes on serving until the new revision is ready.
    """
    session = session_for(output, verbose)
    target = {
        "replicas": replicas,
        "port": port,
        "serving_image": serving_image,
        "input_uri": _absolute(input_uri),
        "output_uri": _absolute(output_uri),
    }
    resources = {"cpu_request": cpu, "memory_request": memory, "gpu_request": gpu}

    async def command(service: "DeploymentService") -> "DeploymentStatusResponse":
        from deployledger.domain.schemas import DeploymentRequest, DeploymentTargetConfig, ResourceConfig

        current = await _find_to_command(service, deployment)
        allocation = current.resource_allocation.model_dump() if current.resource_allocation else {}
        allocation |= _given(resources)
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


@app.command()
def rollback(
    deployment: Reference,
    to_revision: Annotated[int, typer.Option(help="The revision to go back to.", show_default=False)],
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Go back to an earlier revision, from the very same bytes."""
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.rollback_deployment(
            found, to_revision, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
    )


@app.command()
def retry(
    deployment: Reference,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Try again what failed or was cancelled."""
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.retry_deployment(
            found, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
    )


@app.command()
def cancel(
    deployment: Reference,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Call off what is in progress; what served before goes on serving."""
    session = session_for(output, verbose)

    async def command(service: "DeploymentService") -> "DeploymentStatusResponse":
        found = await _find_to_command(service, deployment)
        await service.cancel_deployment(
            found.deployment_id, idempotency_key=idempotency_key, expected_version=expected_version
        )
        await service.settled(found.deployment_id)
        return await service.get_deployment_status(found.deployment_id)

    _print(session, session.run(command))


@app.command()
def delete(
    deployment: Reference,
    expected_version: ExpectedVersionOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Stop a deployment and delete it. Its history stays."""
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.delete_deployment(
            found, idempotency_key=idempotency_key, expected_version=expected_version
        ),
        wait,
        timeout,
        deleting=True,
    )


@app.command()
def resume(
    deployment: Reference,
    wait: WaitOption = True,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Go on with a job that was interrupted, or start again a server that is gone."""
    _command_on(
        session_for(output, verbose),
        deployment,
        lambda service, found: service.resume_deployment(found),
        wait,
        timeout,
    )


@app.command()
def status(
    deployment: Reference,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Print it again whenever it changes.")] = False,
    as_of: AsOfOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Show everything there is to know about a deployment, now or at a moment of the past."""
    from deployledger.adapters.cli.listing import when

    session = session_for(output, verbose)
    as_of = when(as_of, "--as-of")
    if as_of is not None and watch:
        raise typer.BadParameter("What was does not change: there is nothing to watch.", param_hint="--as-of")

    async def question(service: "DeploymentService") -> None:
        from deployledger.adapters.cli.rendering import deployment_card

        if as_of is not None:
            then = await service.find_deployment(deployment, as_of=as_of)
            if session.is_json:
                session.print_json({**then.model_dump(mode="json"), "observation": None})
            else:
                session.stdout.print(deployment_card(then, as_of=f"{as_of} (position {then.position})"))
            return
        found = await service.find_deployment(deployment)
        await _resume_if_left(session, service, found)
        if not watch:
            observation = await _observe(session, service, found)
            if session.is_json:
                running = observation and {"running": observation.running, "detail": observation.detail}
                session.print_json({**found.model_dump(mode="json"), "observation": running})
            else:
                session.stdout.print(deployment_card(found, observation))
                if observation is not None and not observation.running:
                    session.stderr.print(
                        f"Nothing answers; `deployledger resume {found.deployment_name}` starts it again.",
                        highlight=False,
                    )
            return
        async for current in service.watch_deployment(found.deployment_id):
            if session.is_json:
                sys.stdout.write(current.model_dump_json() + "\n")
                sys.stdout.flush()
            else:
                moment = f"{current.updated_at:%H:%M:%S}"
                session.stdout.print(
                    f"{moment} {current.status}: {escaped(current.message)}", highlight=False
                )

    with Interruptible():
        session.run(question)


@app.command("list")
def list_(
    status: Annotated[
        Literal["creating", "updating", "active", "failed", "deleting", "delete_failed", "inactive"] | None,
        typer.Option(help="Only those with this status.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Only those with this in their name, in upper or lower case.", show_default=False),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY[=VALUE]", help="Only those with this tag; may be given again.", show_default=False
        ),
    ] = None,
    model_uri: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Only those whose model URI begins so.", show_default=False),
    ] = None,
    type_: Annotated[
        Literal["api_service", "batch_inference_job", "edge_device"] | None,
        typer.Option("--type", help="Only those of this type.", show_default=False),
    ] = None,
    created_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only those requested then or later: a time with its zone, as in 2026-03-01T12:00Z, "
            "or an age, as in 2h or 3d.",
            show_default=False,
        ),
    ] = None,
    created_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those requested earlier.", show_default=False)
    ] = None,
    updated_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only those to which something happened then or later.", show_default=False
        ),
    ] = None,
    updated_before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only those to which nothing happened since.", show_default=False),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Also those that were deleted.")] = False,
    sort: Annotated[
        Literal["created_at", "updated_at", "name", "status"], typer.Option(help="What to sort by.")
    ] = "created_at",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 100,
    offset: Annotated[int, typer.Option(help="How many to pass over.")] = 0,
    cursor: Annotated[
        str | None,
        typer.Option(help="Go on behind a page: what was printed below it.", show_default=False),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="The list as it was: a time with its zone, as in 2026-03-01T12:00Z, an age, as in 2h, or a "
            "position of the event log.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """List deployments, the oldest first.

    All filters must hold. If there are more, what gives the next page is printed below the table.
    """
    from deployledger.adapters.cli import listing

    session = session_for(output, verbose)
    as_of = listing.when(as_of, "--as-of")
    typed = {
        "created_after": created_after,
        "created_before": created_before,
        "updated_after": updated_after,
        "updated_before": updated_before,
    }
    moments = {key: listing.moment(text, _option(key)) for key, text in typed.items()}
    filters: dict[str, Any] = {
        "status": status,
        "name_contains": name,
        "tags": listing.tags(tag) or None,
        "model_uri_prefix": model_uri,
        "target_type": type_,
        **moments,
    }

    async def question(service: "DeploymentService") -> "tuple[DeploymentPage, datetime | None]":
        page = await service.list_deployments(
            limit,
            offset,
            **filters,
            include_deleted=all_,
            sort=sort,
            descending=reverse,
            cursor=cursor,
            as_of=as_of,
        )
        if as_of is None:
            for deployment in page:
                await _resume_if_left(session, service, deployment)
            return page, None
        return page, await listing.time_of(as_of, page, service)

    page, then = session.run(question)
    if session.is_json:
        session.print_json(page)
    elif page:
        from deployledger.adapters.cli.rendering import deployments_table

        session.stdout.print(deployments_table(page, then))
    if as_of is not None:
        session.stderr.print(listing.as_of(page, then), highlight=False)
    if page.next_cursor:
        known = {_option(key): (typed[key], moments[key]) for key in typed}
        next_page = listing.next_page(page, known, is_past=as_of is not None)
        session.stderr.print(escaped(next_page), highlight=False, soft_wrap=True)
    if page or session.is_json:
        return
    if page.total:
        session.stderr.print(f"No more deployments: there are {page.total:,}.", highlight=False)
    elif _given(filters):
        session.stderr.print("No deployment matches.")
    elif as_of is not None:
        session.stderr.print("There were no deployments.")
    else:
        session.stderr.print("No deployments. `deployledger deploy MODEL_URI --name NAME` makes one.")


app.command()(past_commands.history)
app.command()(past_commands.diff)
app.command()(replay_command.replay)


@app.command()
def logs(
    deployment: Reference,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Print the logs of what serves a deployment."""
    session = session_for(verbose=verbose)

    async def question(service: "DeploymentService") -> None:
        found = await service.find_deployment(deployment)
        async for line in service.deployment_logs(found.deployment_id, follow=follow):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    with Interruptible():
        session.run(question)


@app.command()
def lifecycle(
    output: Annotated[
        Literal["mermaid", "json"], typer.Option("--output", "-o", help="A diagram, or the table.")
    ] = "mermaid",
) -> None:
    """Print the lifecycle that every deployment follows."""
    from deployledger.domain.lifecycle import LIFECYCLE
    from deployledger.domain.lifecycle_chart import mermaid, table

    if output == "json":
        session_for(Output.JSON).print_json(table(LIFECYCLE))
    else:
        sys.stdout.write(mermaid(LIFECYCLE))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it serving at the end.")] = False,
) -> None:
    """Deploy a real model, predict with it, update it under load, look at its history, delete it."""
    from deployledger.adapters.cli.demo import run_demo

    run_demo(session_for(), keep=keep)


# What the commands share ------------------------------------------------------------------------------


async def _find_to_command(service: "DeploymentService", reference: str) -> "DeploymentStatusResponse":
    """Return the deployment that is meant; one that gave the name up is not, or the wrong one is deleted."""
    from uuid import UUID

    from deployledger.domain.exceptions import ResourceNotFoundError

    found = await service.find_deployment(reference)
    if reference == found.deployment_name or str(found.deployment_id).startswith(reference.lower()):
        return found
    try:
        UUID(reference)
    except ValueError:
        error = ResourceNotFoundError("Deployment", reference)
        error.hint = f"The deployment that had this name is now called {found.deployment_name!r}."
        raise error from None
    return found


def _command_on(
    session: Session,
    reference: str,
    command: "Callable[[DeploymentService, UUID], Awaitable[DeploymentStatusResponse]]",
    wait: bool,
    timeout: float | None,
    *,
    deleting: bool = False,
) -> None:
    async def find_and_command(service: "DeploymentService") -> "DeploymentStatusResponse":
        found = await _find_to_command(service, reference)
        return await command(service, found.deployment_id)

    _command(session, find_and_command, wait, timeout, deleting=deleting)


def _command(
    session: Session,
    command: "Callable[[DeploymentService], Awaitable[DeploymentStatusResponse]]",
    wait: bool,
    timeout: float | None,
    *,
    deleting: bool = False,
) -> None:
    """Give a command; wait for its job here, or leave it to a process in the background."""
    from deployledger.adapters.cli.background import resume_in_background
    from deployledger.adapters.cli.waiting import outcome
    from deployledger.adapters.cli.waiting import wait as wait_for

    accepted: list[DeploymentStatusResponse] = []

    async def give(service: "DeploymentService") -> "DeploymentStatusResponse":
        answer = await command(service)
        accepted.append(answer)
        if not wait:
            return answer
        async with asyncio.timeout(timeout):
            await wait_for(session, service, answer)
        await service.settled(answer.deployment_id)
        return await service.get_deployment_status(answer.deployment_id)

    try:
        answer = session.run(give)
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
    if not wait:
        resume_in_background(answer.deployment_id)
    _print(session, answer)
    if wait and outcome(answer, deleting=deleting) is ExitCode.FAILED:
        raise SystemExit(int(ExitCode.FAILED))


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


async def _observe(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> "Observation | None":
    """Return what is seen of what serves; nothing, if it belongs to an orchestrator that is not ours."""
    from deployledger.domain.exceptions import ConflictError

    if deployment.serving_revision is None:
        return None
    try:
        return await service.observe_deployment(deployment.deployment_id)
    except ConflictError as error:
        session.stderr.print(
            f"{error.message} Whether it runs was not looked at from here.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return None


async def _resume_if_left(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> None:
    """If nobody is on an unfinished job, for example because its process was killed, start one that is."""
    if deployment.progress is None:
        return
    from deployledger.adapters.cli.background import resume_in_background
    from deployledger.domain.exceptions import UndecodableEventError

    try:
        is_left = await service.is_left(deployment.deployment_id)
    except UndecodableEventError:  # nobody can go on with it, but what is known of it can be shown
        is_left = False
    if not is_left:
        return
    resume_in_background(deployment.deployment_id)
    session.stderr.print(
        f"The job of {escaped(deployment.deployment_name)} was interrupted; it goes on in the background.",
        highlight=False,
    )


def _print(session: Session, deployment: "DeploymentStatusResponse") -> None:
    if session.is_json:
        session.print_json(deployment)
        return
    from deployledger.adapters.cli.rendering import deployment_card

    session.stdout.print(deployment_card(deployment))


def _tags(pairs: list[str] | None) -> dict[str, str]:
    tags = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--tag")
        tags[key] = value
    return tags


def _option(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _absolute(uri: str | None) -> str | None:
    """Return a relative path as an absolute one: the job may run in another folder."""
    if uri is None or "://" in uri:
        return uri
    return str(Path(uri).expanduser().absolute())
