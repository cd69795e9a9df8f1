"""The settings, from environment variables that begin with ``DEPLOYLEDGER_``."""

import getpass
import os
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from deployledger.adapters.database_url import DatabaseUrl
from deployledger.adapters.environment import forget_empty_variables
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.lifecycle import DEADLINES
from deployledger.domain.requests import problem_of
from deployledger.domain.values import Step
from deployledger.gateway import Limits
from deployledger.service.files.paths import expanded
from deployledger.service.outside_calls import CallLimits


def _absolute(path: Path) -> Path:
    return expanded(path).absolute()


def _default_home() -> Path:
    try:
        return user_data_path("deployledger", appauthor=False).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(
            "There is no folder for deployledger's files: HOME is not set, and "
            f"user {os.getuid()} has no home folder on this machine.",
            hint="Set DEPLOYLEDGER_HOME to a folder that this user can write to.",
        ) from error


Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86400)]


class Settings(BaseSettings):
    """What can be set.

    Attributes:
        home: the folder for the database file, artifacts, images and serving processes.
        home_group: the group that shares the home, by name or number; none keeps it private.
        database_url: where the event log is; none is the file ``deployledger.db`` in ``home``.
        create_schema: whether a PostgreSQL database without our schema gets it on first use.
        pool_size: how many connections read from a PostgreSQL server at the same time, at most.
        database_patience: how many seconds a command or a query waits for an unavailable database.
        read_models_url: where the read models are; none is the database of the event log.
        projections: further projections, as ``package.module:NAME``, with commas between them.
        largest_row_bytes: how many bytes a row of a read model may take as JSON.
        largest_model_bytes: how many bytes a model may have; none sets no limit.
        gc_keep_revisions: how many earlier revisions of each deployment `gc` keeps ready for a rollback.
        gc_keep_days: for how many days it keeps revisions that no longer serve, and damaged files.
        actor: who gives the commands; none is the operating system's user, marked as such.
        audit_key: the private key that signs checkpoints; none makes none.
        checkpoints: where checkpoints are published: a folder, or a URI; none is the database alone.
        checkpoint_events: a checkpoint is made as soon as so many events have none.
        checkpoint_seconds: or as soon as an event has had none for so many seconds.
        serving_host: the address that local endpoints listen on.
        ready_timeout: how many seconds a local server may take to become ready.
        fetch_deadline: how many seconds the step may take; likewise the next four.
        query_deadline: how many seconds a query to an orchestrator may take.
        stored_files_deadline: how many seconds listing, reading or freeing all stored files may take.
        concurrent_steps: how many deployments do the same step with the same client at once.
        serving_max_body_bytes: this and the following are the `Limits` of local endpoints.
    """

    model_config = SettingsConfigDict(
        env_prefix="DEPLOYLEDGER_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Annotated[Path, AfterValidator(_absolute)] = Field(default_factory=_default_home)
    home_group: str | None = None
    database_url: SecretStr | None = None
    create_schema: bool = False
    pool_size: int = Field(default=8, ge=1, le=100)
    database_patience: float = Field(default=30.0, gt=0)
    read_models_url: SecretStr | None = None
    projections: str = ""
    largest_row_bytes: int = Field(default=1 << 20, ge=1024)
    largest_model_bytes: int | None = Field(default=None, ge=1)
    gc_keep_revisions: int = Field(default=3, ge=0)
    gc_keep_days: float = Field(default=7.0, ge=0, le=36500)
    actor: str | None = None
    audit_key: Annotated[Path, AfterValidator(_absolute)] | None = None
    checkpoints: str = ""
    checkpoint_events: int = Field(default=1000, ge=1)
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    serving_host: str = "127.0.0.1"
    ready_timeout: float = Field(default=120.0, gt=0)
    fetch_deadline: Seconds = DEADLINES[Step.FETCH].total_seconds()
    package_deadline: Seconds = DEADLINES[Step.PACKAGE].total_seconds()
    provision_deadline: Seconds = DEADLINES[Step.PROVISION].total_seconds()
    run_deadline: Seconds = DEADLINES[Step.RUN].total_seconds()
    delete_deadline: Seconds = DEADLINES[Step.DELETE].total_seconds()
    query_deadline: Seconds = CallLimits.query.total_seconds()
    stored_files_deadline: Seconds = CallLimits.stored_files.total_seconds()
    concurrent_steps: int = Field(default=CallLimits.concurrent_steps, ge=1, le=1000)
    serving_max_body_bytes: int = Field(default=Limits.max_body_bytes, ge=1)
    serving_max_head_bytes: int = Field(default=Limits.max_head_bytes, ge=1024)
    serving_max_connections: int = Field(default=Limits.max_connections, ge=1)
    serving_head_timeout: float = Field(default=Limits.head_timeout, gt=0)
    serving_body_timeout: float = Field(default=Limits.body_timeout, gt=0)
    serving_idle_timeout: float = Field(default=Limits.idle_timeout, gt=0)
    serving_response_timeout: float | None = Field(default=Limits.response_timeout, gt=0)

    @property
    def call_limits(self) -> CallLimits:
        """The limits of calls to the outside."""
        return CallLimits(
            steps={step: timedelta(seconds=getattr(self, f"{step}_deadline")) for step in Step},
            query=timedelta(seconds=self.query_deadline),
            stored_files=timedelta(seconds=self.stored_files_deadline),
            concurrent_steps=self.concurrent_steps,
        )

    @property
    def database(self) -> str:
        """The database URL, with its default."""
        if self.database_url and self.database_url.get_secret_value():
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'deployledger.db'}"

    @property
    def serving_limits(self) -> Limits:
        """The limits of local endpoints."""
        return Limits(**{each.name: getattr(self, f"serving_{each.name}") for each in fields(Limits)})

    @property
    def acting(self) -> str:
        """The actor, with its default."""
        if self.actor:
            return self.actor
        try:
            return f"os:{getpass.getuser()}"
        except (KeyError, OSError):  # a container's user may have no name
            return "os:unknown"


class ExplicitSettings(Settings):
    """Settings that are passed; what is left out has its default, whatever the environment says."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the arguments as the only source."""
        return (init_settings,)


def check_folder(database_url: str, home: Path) -> str:
    """Return a database URL whose file can be made; a misspelt path makes no folders.

    Args:
        home: the folder that is made when it is needed.

    Raises:
        ConfigurationError: if it is a file in another folder, which does not exist.
    """
    file = DatabaseUrl.parse(database_url).file
    if file is not None and file.parent != home and not file.parent.exists():
        raise ConfigurationError(
            f"The folder of the SQLite file {file} does not exist.",
            hint="Create the folder first, or correct the path (DEPLOYLEDGER_DATABASE_URL).",
        )
    return database_url


def load_settings(*, home: str | Path | None = None) -> Settings:
    """Return the settings from the environment.

    Args:
        home: the folder that takes the place of the one in the environment.

    Raises:
        ConfigurationError: if one of them is malformed, or the home is not set and this user has none.
    """
    forget_empty_variables()
    try:
        return Settings(home=Path(home)) if home else Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"DEPLOYLEDGER_{str(problem['loc'][0]).upper()}: {problem_of(problem)}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"A setting is invalid: {problems}.") from error
