"""Telemetry: structured log lines, one a request, with its id and never a prompt or a secret."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, level: int = logging.INFO, json: bool | None = None) -> None:
    """Set up structlog on standard error: readable on a terminal, JSON lines elsewhere (`json` None: decide so)."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if as_json else structlog.processors.ExceptionPrettyPrinter(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
