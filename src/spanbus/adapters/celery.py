"""Celery: each execution of a task is a span in the trace of its publisher."""

from __future__ import annotations

from spanbus.integrations.celery import attach as attach
