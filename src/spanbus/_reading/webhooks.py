"""Webhook bodies of GitLab, Jenkins and Buildkite, and Kubernetes watch events, as plain events.

GitLab sends an ``object_kind`` with the attributes of a pipeline or of one of its jobs (``build``). The notification plugin
of Jenkins sends a job with the ``phase`` and ``status`` of a ``build``. Buildkite sends an ``event`` with a ``build`` of a
``pipeline`` and, for job events, the ``job``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from spanbus._named_tuple import NamedTuple
from spanbus._reading.shape import text_of
from spanbus._reading.spelling import word_of_state

_WATCH_TYPES = ("ADDED", "MODIFIED", "DELETED")
_JENKINS_PHASES = {"STARTED": "started", "COMPLETED": "completed", "FINALIZED": "completed"}


BODIES = frozenset(("object_kind", "build", "object"))
"""Each of these bodies has at least one of these keys."""


class PlainEvent(NamedTuple):
    """The event that a webhook body reports."""

    event_type: str
    payload: Mapping[str, object]


def is_body(payload: Mapping[str, object]) -> bool:
    """Whether the payload may be the body of such a webhook."""
    return not BODIES.isdisjoint(payload)


def event_of_body(event_type: str, body: Mapping[str, object]) -> PlainEvent | None:
    """Return the event that ``body`` reports; None for other bodies, and for states before the start."""
    if "object" in body:
        return _of_kubernetes(event_type, body)
    kind = body.get("object_kind")
    if kind == "pipeline":
        return _pipeline_of_gitlab(body, _mapping(body.get("object_attributes")))
    if kind == "build":
        return _job_of_gitlab(body)
    if kind is not None:
        return None
    build = _mapping(body.get("build"))
    if isinstance(body.get("pipeline"), Mapping) and build.get("id") is not None:
        return _of_buildkite(event_type, body, build)
    return _build_of_jenkins(event_type, body, build)


def _pipeline_of_gitlab(
    body: Mapping[str, object], about: Mapping[str, object]
) -> PlainEvent | None:
    word, number = _word(about.get("status")), about.get("id")
    if word is None or number is None:
        return None
    project = _mapping(body.get("project"))
    name = about.get("name") or project.get("path_with_namespace")
    payload = {key: about.get(key) for key in ("status", "ref", "source", "duration", "url")}
    return _event(f"pipelinerun.{word}", run_id=number, pipeline=name, **payload)


def _job_of_gitlab(body: Mapping[str, object]) -> PlainEvent | None:
    word, name = _word(body.get("build_status")), body.get("build_name")
    if word is None or not name:
        return None
    return _event(
        f"taskrun.{word}",
        run_id=body.get("pipeline_id"),
        task=name,
        status=body.get("build_status"),
        duration=body.get("build_duration"),
        error=body.get("build_failure_reason") if word == "failed" else None,
    )


def _build_of_jenkins(
    event_type: str, body: Mapping[str, object], build: Mapping[str, object]
) -> PlainEvent | None:
    """Read a build. A start event carries the status of the previous build, which is ignored."""
    word = _JENKINS_PHASES.get(text_of(build.get("phase")) or "")
    if word is None or "number" not in build:
        return None
    status = build.get("status") if word == "completed" else None
    return _event(
        f"pipelinerun.{_word(status) or word}",
        run_id=build.get("full_url") or build.get("url") or build["number"],
        pipeline=body.get("name") or event_type,
        number=build["number"],
        status=status,
        duration_ms=build.get("duration"),
    )


def _of_buildkite(
    event_type: str, body: Mapping[str, object], build: Mapping[str, object]
) -> PlainEvent | None:
    """Read a build or one of its jobs. All ends have one event type; the result is in ``state``."""
    about, _, what = (text_of(body.get("event")) or event_type).partition(".")
    pipeline, job = _mapping(body.get("pipeline")), _mapping(body.get("job"))
    if about == "build" and (what == "running" or what.endswith("finished") or what == "skipped"):
        state = "running" if what == "running" else build.get("state")
        return _event(
            f"pipelinerun.{_word(state) or ('skipped' if what == 'skipped' else 'finished')}",
            run_id=build["id"],
            pipeline=pipeline.get("name") or pipeline.get("slug"),
            status=state,
            number=build.get("number"),
            url=build.get("web_url"),
        )
    name = job.get("name") or job.get("step_key") or job.get("command")
    if about == "job" and what in ("started", "finished") and name:
        state = "running" if what == "started" else job.get("state")
        part = job.get("parallel_group_index")
        return _event(
            f"taskrun.{_word(state) or 'finished'}",
            run_id=build["id"],
            task=name if part is None else f"{name}[{part}]",
            status=state,
            exit_code=job.get("exit_status"),
        )
    return None


def _of_kubernetes(event_type: str, body: Mapping[str, object]) -> PlainEvent | None:
    if event_type not in _WATCH_TYPES:
        return None
    from spanbus._reading.kubernetes import event_of_watch

    found = event_of_watch(event_type, body)
    return None if found is None else PlainEvent(*found)


def _event(event_type: str, **payload: object) -> PlainEvent:
    return PlainEvent(
        event_type, {key: value for key, value in payload.items() if value is not None}
    )


def _word(state: object) -> str | None:
    text = text_of(state)
    return word_of_state(text) if text else None


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
