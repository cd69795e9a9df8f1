"""The deployment service, composed of its parts and adapters."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.adapters.ledger.publishing import Place
from deployledger.adapters.read_models import load_projections, open_read_models
from deployledger.adapters.settings import Settings, check_folder, load_settings
from deployledger.audit.keys import Signer
from deployledger.domain.ports import (
    ArtifactStoreInterface,
    ContainerRegistryClientInterface,
    ModelRegistryClientInterface,
    OrchestratorClientInterface,
)
from deployledger.projections.projection import Projection
from deployledger.service.clients import Clients
from deployledger.service.deployment_service import DeploymentService
from deployledger.service.files.home import open_home
from deployledger.service.freeing import KeepRules
from deployledger.service.outside_calls import Sleep
from deployledger.service.simulation import SimulatedOrchestrator


class ServiceOptions(TypedDict, total=False):
    """The options of a service, besides its clients; see `MLModelDeploymentService`."""

    database_url: str | None
    actor: str | None
    home: str | Path | None
    create_schema: bool | None
    run_jobs: bool
    resume: bool
    read_models_url: str | None
    projections: Sequence[Projection[Any]]
    signer: Signer | None
    settings: Settings | None
    sleep: Sleep


class MLModelDeploymentService(DeploymentService):
    """Manages the deployment of models: fetch, package, provision, update, delete, and the whole history.

    Each client that is not given is simulated, and every event and status says so; `local` gives the
    service that does the work on this machine. Use it as an asynchronous context manager, or close it.

    Args:
        model_registry_client: gives the files of registered models.
        container_registry_client: builds and keeps images.
        orchestrator_client: makes packaged models run.
        database_url: ``sqlite:///path``, ``sqlite://`` (memory) or ``postgresql://…``; the default is
            ``DEPLOYLEDGER_DATABASE_URL``, else a file under ``DEPLOYLEDGER_HOME``.
        actor: who gives the commands; the default is ``DEPLOYLEDGER_ACTOR``, else the system's user.
        home: the folder for what is stored; the default is ``DEPLOYLEDGER_HOME``.
        create_schema: create the schema of a PostgreSQL database that has none.
        run_jobs: whether this process does the work of deployments, or leaves that to others.
        resume: whether it also takes up what other processes leave: unfinished jobs, on opening, and the
            commands that they give later.
        read_models_url: the database of the read models; the default is ``DEPLOYLEDGER_READ_MODELS_URL``,
            else the one of the event log.
        projections: further projections, besides those that ``DEPLOYLEDGER_PROJECTIONS`` names.
        signer: what signs checkpoints of the log; the default is the key that ``DEPLOYLEDGER_AUDIT_KEY``
            names. With it, checkpoints are made while events are added.
        settings: take the place of those of the environment, and of ``home``.
        sleep: waits for so many seconds of a clock that never goes back; deadlines are counted by it.

    Raises:
        ConfigurationError: if a setting or the database URL is malformed, or names a file in a folder that
            does not exist.
    """

    def __init__(
        self,
        model_registry_client: ModelRegistryClientInterface | None = None,
        container_registry_client: ContainerRegistryClientInterface | None = None,
        orchestrator_client: OrchestratorClientInterface | None = None,
        *,
        database_url: str | None = None,
        actor: str | None = None,
        home: str | Path | None = None,
        create_schema: bool | None = None,
        run_jobs: bool = True,
        resume: bool = True,
        read_models_url: str | None = None,
        projections: Sequence[Projection[Any]] = (),
        signer: Signer | None = None,
        settings: Settings | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        settings = settings or load_settings(home=home)
        folder = settings.home
        open_home(folder, settings.home_group)
        artifacts: ArtifactStoreInterface | None = None
        if model_registry_client is not None:
            from deployledger.adapters.artifacts import LocalArtifactStore

            artifacts = LocalArtifactStore(folder / "artifacts", largest=settings.largest_model_bytes)
        orchestrator = orchestrator_client or SimulatedOrchestrator()
        log = open_event_log(
            check_folder(database_url or settings.database, folder),
            create=settings.create_schema if create_schema is None else create_schema,
            pool_size=settings.pool_size,
            patience=settings.database_patience,
        )
        configured = settings.read_models_url.get_secret_value() if settings.read_models_url else None
        super().__init__(
            log,
            open_read_models(
                log,
                url=read_models_url or configured or None,
                projections=[*projections, *load_projections(settings.projections)],
                largest_row=settings.largest_row_bytes,
                pool_size=settings.pool_size,
            ),
            Clients(model_registry_client, container_registry_client, orchestrator, artifacts),
            ledger=open_ledger(
                log,
                signer=signer or (Signer.load(settings.audit_key) if settings.audit_key else None),
                place=Place(settings.checkpoints) if settings.checkpoints else None,
            ),
            checkpoint_every=(settings.checkpoint_events, settings.checkpoint_seconds),
            workspace=folder / "downloads",
            largest_model=settings.largest_model_bytes,
            keep=KeepRules(settings.gc_keep_revisions, timedelta(days=settings.gc_keep_days)),
            actor=actor or settings.acting,
            run_jobs=run_jobs,
            resume=resume,
            limits=settings.call_limits,
            sleep=sleep,
        )

    @classmethod
    def local(
        cls,
        model_registry_client: ModelRegistryClientInterface | None = None,
        container_registry_client: ContainerRegistryClientInterface | None = None,
        orchestrator_client: OrchestratorClientInterface | None = None,
        **options: Unpack[ServiceOptions],
    ) -> Self:
        """Return a service that does the work on this machine.

        Models come from paths and MLflow, images go to an OCI layout on disk, and local processes serve.
        A client that is given takes the place of the embedded one. The options are those of the class.
        """
        from deployledger.adapters.artifacts import LocalArtifactStore
        from deployledger.adapters.local import LocalProcessOrchestrator
        from deployledger.adapters.mlflow import MlflowModelRegistryClient
        from deployledger.adapters.oci import OciLayoutRegistry, extract_model

        settings = options.get("settings") or load_settings(home=options.get("home"))
        folder = options["home"] = settings.home
        return cls(
            model_registry_client or MlflowModelRegistryClient(),
            container_registry_client or OciLayoutRegistry(folder / "images"),
            orchestrator_client
            or LocalProcessOrchestrator(
                folder / "serving",
                extract_model=extract_model,
                kept=LocalArtifactStore(folder / "artifacts"),
                host=settings.serving_host,
                ready_timeout=settings.ready_timeout,
                limits=settings.serving_limits,
            ),
            **options,
        )
