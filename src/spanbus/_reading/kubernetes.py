"""Kubernetes watch events as plain events: a Job is a run, its pods are phases.

A watch sends ``{"type": "MODIFIED", "object": …}``; the object is decoded JSON of the API or an object of the Python client.
Pods without a Job may be services and are ignored. So is work that had ended before it was first seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from spanbus._reading.shape import getter, text_of
from spanbus._reading.spelling import normal

_POD_PHASES = {"Running": "running", "Succeeded": "completed", "Failed": "failed"}
_JOB_CONDITIONS = {"Complete": "completed", "Failed": "failed"}
_INDEX = "batch.kubernetes.io/job-completion-index"
_ENDED = ("completed", "failed")


def event_of_watch(
    event_type: str, body: Mapping[str, object]
) -> tuple[str, dict[str, object]] | None:
    """Return event type and payload for a watch event of a Job or of one of its pods; None for anything else."""
    thing = body.get("raw_object") or body.get("object")
    kind = text_of(_field(thing, "kind")) or type(thing).__name__.removeprefix("V1")
    if kind not in ("Job", "Pod"):
        return None
    word, payload = (_job if kind == "Job" else _pod)(thing)
    if event_type == "DELETED" and word not in _ENDED:
        word = "cancelled"
    if word is None or payload is None or (event_type == "ADDED" and word in _ENDED):
        return None
    fields = {key: value for key, value in payload.items() if value is not None}
    return f"{'pipelinerun' if kind == 'Job' else 'taskrun'}.{word}", fields


def _job(job: object) -> tuple[str | None, dict[str, object] | None]:
    status, uid = _field(job, "status"), _field(job, "metadata", "uid")
    word = "running" if _field(status, "startTime") is not None else None
    error: object = None
    for condition in _list(_field(status, "conditions")):
        if _field(condition, "status") == "True" and (
            ended := _JOB_CONDITIONS.get(str(_field(condition, "type")))
        ):
            word = ended
            error = _field(condition, "message") or _field(condition, "reason")
    cron = _owner(job, "CronJob")
    return word, None if uid is None else {
        "run_id": uid,
        "pipeline": _field(cron, "name") or _field(job, "metadata", "name"),
        "namespace": _field(job, "metadata", "namespace"),
        "error": error if word == "failed" else None,
    }


def _pod(pod: object) -> tuple[str | None, dict[str, object] | None]:
    owner, status = _owner(pod, "Job"), _field(pod, "status")
    if owner is None:
        return None, None
    word = _POD_PHASES.get(str(_field(status, "phase")))
    containers = _list(_field(pod, "spec", "containers"))
    name = _field(containers[0], "name") if containers else _field(owner, "name")
    index = getter(_field(pod, "metadata", "annotations"))(_INDEX)
    failed = [
        ended
        for one in _list(_field(status, "containerStatuses"))
        if (ended := _field(one, "state", "terminated")) is not None
        and _field(ended, "exitCode") != 0
    ]
    exit_code = _field(failed[0], "exitCode") if failed else None
    reason = _field(status, "reason") or (_field(failed[0], "reason") if failed else None)
    return word, {
        "run_id": _field(owner, "uid"),
        "task": name if index is None else f"{name}[{index}]",
        "id": _field(pod, "metadata", "uid"),
        "pod": _field(pod, "metadata", "name"),
        "error": (_field(status, "message") or reason) if word == "failed" else None,
        "error_type": reason if word == "failed" else None,
        "exit_code": exit_code,
    }


def _owner(thing: object, kind: str) -> object:
    """Return the owner reference of this kind, if any."""
    owners = _list(_field(thing, "metadata", "ownerReferences"))
    return next((one for one in owners if _field(one, "kind") == kind), None)


def _field(thing: object, *path: str) -> object:
    """Return a nested field, in camel case (API) or snake case (Python client)."""
    for name in path:
        if thing is None:
            return None
        get = getter(thing)
        found = get(name)
        thing = found if found is not None else get(normal(name).replace(".", "_"))
    return str(thing) if isinstance(thing, datetime) else thing


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
