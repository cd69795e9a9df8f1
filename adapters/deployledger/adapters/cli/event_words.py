"""Events in words: one sentence for each kind of event, wherever events are shown to people."""

from collections.abc import Callable, Mapping
from typing import Any

from deployledger.adapters.cli import units
from deployledger.domain.visible import visible


def sentence(
    topic: str, data: Mapping[str, Any], *, actor: str = "", seconds: float | None = None, attempt: int = 1
) -> str:
    """Return what happened, on one line in which nothing acts on a terminal, with short digests.

    Args:
        topic: the event's topic; of one that this software does not know it is what is returned.
        data: what the event says, as JSON values; ``revision`` is the one that it is about.
        actor: who gave the command, if it is one, and is to be named.
        seconds: how long it took, if it is the result of work.
        attempt: how often the work was started by then.
    """
    by, has_failed = f" by {actor}" if actor else "", "failure" in data
    took = f" {'after' if has_failed else 'in'} {units.duration(seconds)}" if seconds is not None else ""
    again = f" (attempt {attempt})" if has_failed and attempt > 1 else ""
    words = _WORDS.get(topic)
    try:
        text = words(data, by, took + again) if words else topic
    except (KeyError, TypeError, AttributeError, ValueError):  # it is not stored as this software does
        text = topic
    simulated = " (simulated)" if data.get("simulated") is True else ""
    return units.short_digests(visible(text + simulated))


def _requested(data: Mapping[str, Any], by: str, _: str) -> str:
    return f"Requested{by}: {_specified(data)}"


def _update_requested(data: Mapping[str, Any], by: str, _: str) -> str:
    if data.get("rollback_to") is not None:
        new = f" (revision {data['revision']})"
        return f"Rollback to revision {data['rollback_to']} requested{by}{new}: {_specified(data)}"
    return f"Update to revision {data['revision']} requested{by}: {_specified(data)}"


def _retry_requested(data: Mapping[str, Any], by: str, _: str) -> str:
    return f"Retry requested{by} (attempt {data['attempt']})"


def _fetched(data: Mapping[str, Any], _: str, took: str) -> str:
    artifact = data["artifact"]
    parts = [units.model(artifact["resolved_uri"])] if artifact["model_version"] else []
    if artifact["file_count"]:
        parts += [units.number(artifact["file_count"], "file"), units.size(artifact["size_bytes"])]
    return f"Fetched{took}: {', '.join([*parts, artifact['digest']])}"


def _packaged(data: Mapping[str, Any], _: str, took: str) -> str:
    image = data["image"]
    size = f", {units.size(image['size_bytes'])}" if image["size_bytes"] else ""
    return f"Packaged{took}: image {image['digest']}{size}"


def _provisioned(data: Mapping[str, Any], _: str, took: str) -> str:
    endpoint = data["endpoint_url"]
    return f"Active{took}: {endpoint}" if endpoint else f"Batch job started{took}"


def _completed(data: Mapping[str, Any], _: str, took: str) -> str:
    return f"Completed{took}: {units.number(data['rows'], 'row')} written to {data['output_uri']}"


def _failed(data: Mapping[str, Any], _: str, took: str) -> str:
    return f"Failed in {data['failure']['step']}{took}: {_reason(data)}"


def _cancelled(data: Mapping[str, Any], by: str, _: str) -> str:
    return (
        f"Update to revision {data['revision']} cancelled{by}" if data["revision"] > 1 else f"Cancelled{by}"
    )


def _deletion_failed(data: Mapping[str, Any], _: str, took: str) -> str:
    return f"Deletion failed{took}: {_reason(data)}"


def _clock_corrected(data: Mapping[str, Any], by: str, _: str) -> str:
    until = data["recorded_until"]
    return f"Clock corrected{by}: times up to {until} from position {data['first_position']:,} are wrong"


_WORDS: dict[str, Callable[[Mapping[str, Any], str, str], str]] = {
    "deployment.requested": _requested,
    "deployment.artifacts_fetched": _fetched,
    "deployment.packaged": _packaged,
    "deployment.provisioned": _provisioned,
    "deployment.completed": _completed,
    "deployment.failed": _failed,
    "deployment.update_requested": _update_requested,
    "deployment.retry_requested": _retry_requested,
    "deployment.cancelled": _cancelled,
    "deployment.deletion_requested": lambda _, by, took: f"Deletion requested{by}",
    "deployment.deletion_failed": _deletion_failed,
    "deployment.deleted": lambda _, by, took: f"Deleted{took}",
    "deployment_name.reserved": lambda data, by, took: f"Name {data['name']} reserved{by}",
    "deployment_name.released": lambda data, by, took: f"Name {data['name']} released{by}",
    "event_log.clock_corrected": _clock_corrected,
}


TOPICS = tuple(_WORDS)
"""The topics of the events that this software knows."""


def _specified(data: Mapping[str, Any]) -> str:
    target, resources, tags = data["target"], data.get("resources") or {}, data.get("tags") or {}
    parts = [units.model(data["model_uri"])]
    if target["type"] == "api_service":
        parts.append(units.number(target["replicas"], "replica"))
    else:
        parts.append(target["type"].replace("_", " "))
    parts += [f"port {target['port']}"] if target.get("port") else []
    for name, unit in (("cpu_request", "CPU"), ("memory_request", "memory"), ("gpu_request", "GPU")):
        parts += [f"{resources[name]} {unit}"] if resources.get(name) else []
    parts += [units.number(len(tags), "tag")] if tags else []
    return ", ".join(parts)


def _reason(data: Mapping[str, Any]) -> str:
    failure = data["failure"]
    return f"{failure['reason']}: {failure['message']} {failure['hint']}".rstrip()
