"""The canonical form of the state of a deployment or a name, which is the same everywhere.

The canonical form of a state is JSON (RFC 8259) in ASCII: other characters as ``\\uXXXX``, keys in order,
no space between tokens. Times are in UTC with six digits of microseconds and ``Z``; a time that was stored
without a zone is taken as UTC. Ids are in lower case with dashes. What is not there is ``null``, and no key
is left out. Numbers in tags are as Python's ``json`` writes them: the shortest decimal that is the same
number.

A deployment::

    {"aggregate":"deployment","created_on":T,"endpoint_url":S,"failure":F,"id":ID,"modified_on":T,"name":S,
     "orchestrator":S,"revisions":[R,...],"serving_revision":N,"state":S,"version":N}

``F`` is ``{"hint","message","reason","step"}``. ``R``, in the order of their numbers, is ``{"artifact":
{"digest","file_count","model_version","resolved_uri","size_bytes"},"attempt","image":{"digest","reference",
"size_bytes"},"model_uri","number","resources":{"cpu_request","gpu_request","memory_request"},"rollback_to",
"tags","target":{"input_uri","instance_type","output_uri","port","replicas","serving_image","type"}}``. A
target with options of batch jobs has the key ``"batch"`` before the others, with its keys in order.

The reservation of a name::

    {"aggregate":"name","holder":ID,"id":ID,"name":S,"version":N}

The corrections of the log's clock::

    {"aggregate":"clock","first_positions":[N,...],"id":ID,"version":N}

Who caused the events, and their ids, are no part of what they made.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime

from deployledger.domain.clock_corrections import ClockCorrections
from deployledger.domain.deployment import Deployment, Revision
from deployledger.domain.names import NameReservation
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image

_LENGTH_OF_TIME = len("2026-03-03T12:00:00.000000")

_quoted: Callable[[str], str] = json.encoder.encode_basestring_ascii
_as_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(state: Deployment | NameReservation | ClockCorrections) -> str:
    """Return the canonical form of a state."""
    # Put together by hand: that is three times as fast as encoding a dictionary of it.
    if isinstance(state, NameReservation):
        holder = "null" if state.holder is None else f'"{state.holder}"'
        return (
            f'{{"aggregate":"name","holder":{holder},"id":"{state.id}","name":{_quoted(state.name)},'
            f'"version":{state.version}}}'
        )
    if isinstance(state, ClockCorrections):
        positions = ",".join(map(str, state.first_positions))
        return (
            f'{{"aggregate":"clock","first_positions":[{positions}],"id":"{state.id}",'
            f'"version":{state.version}}}'
        )
    revisions = ",".join([_revision(state.revisions[number]) for number in sorted(state.revisions)])
    return (
        f'{{"aggregate":"deployment","created_on":"{_time(state.created_on)}",'
        f'"endpoint_url":{_text(state.endpoint_url)},"failure":{_failure(state.failure)},"id":"{state.id}",'
        f'"modified_on":"{_time(state.modified_on)}","name":{_quoted(state.name)},'
        f'"orchestrator":{_quoted(state.orchestrator)},"revisions":[{revisions}],'
        f'"serving_revision":{_number(state.serving_revision)},"state":"{state.state.value}",'
        f'"version":{state.version}}}'
    )


def _text(value: str | None) -> str:
    return "null" if value is None else _quoted(value)


def _number(value: int | None) -> str:
    return "null" if value is None else f"{value}"


def _time(moment: datetime) -> str:
    if moment.utcoffset():  # neither in UTC nor without a zone
        moment = moment.astimezone(UTC)
    return f"{moment.isoformat(timespec='microseconds')[:_LENGTH_OF_TIME]}Z"


def _failure(failure: Failure | None) -> str:
    if failure is None:
        return "null"
    return (
        f'{{"hint":{_quoted(failure.hint)},"message":{_quoted(failure.message)},'
        f'"reason":"{failure.reason.value}","step":"{failure.step.value}"}}'
    )


def _revision(revision: Revision) -> str:
    tags = _as_json(revision.tags) if revision.tags else "{}"  # an encoder is slow to start
    return (
        f'{{"artifact":{_artifact(revision.artifact)},"attempt":{revision.attempt},'
        f'"image":{_image(revision.image)},"model_uri":{_quoted(revision.model_uri)},'
        f'"number":{revision.number},"resources":{_resources(revision.resources)},'
        f'"rollback_to":{_number(revision.rollback_to)},"tags":{tags},"target":{_target(revision.target)}}}'
    )


def _artifact(artifact: Artifact | None) -> str:
    if artifact is None:
        return "null"
    return (
        f'{{"digest":"{artifact.digest}","file_count":{artifact.file_count},'
        f'"model_version":{_text(artifact.model_version)},"resolved_uri":{_quoted(artifact.resolved_uri)},'
        f'"size_bytes":{artifact.size_bytes}}}'
    )


def _image(image: Image | None) -> str:
    if image is None:
        return "null"
    return (
        f'{{"digest":"{image.digest}","reference":{_quoted(image.reference)},'
        f'"size_bytes":{image.size_bytes}}}'
    )


def _resources(resources: ResourceConfig | None) -> str:
    if resources is None:
        return "null"
    return (
        f'{{"cpu_request":{_text(resources.cpu_request)},"gpu_request":{_text(resources.gpu_request)},'
        f'"memory_request":{_text(resources.memory_request)}}}'
    )


def _target(target: DeploymentTargetConfig) -> str:
    # Without options there is no key, so that logs without any have the digests that they always had.
    batch = f'"batch":{_as_json(target.batch.model_dump(mode="json"))},' if target.batch else ""
    return (
        f'{{{batch}"input_uri":{_text(target.input_uri)},"instance_type":{_text(target.instance_type)},'
        f'"output_uri":{_text(target.output_uri)},"port":{_number(target.port)},'
        f'"replicas":{target.replicas},"serving_image":{_text(target.serving_image)},'
        f'"type":"{target.type}"}}'
    )
