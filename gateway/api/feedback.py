"""Feedback: `POST /gkt/v1/feedback`, by which whoever asked says how good the answer was."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from gateway.api.admin import the_reader
from gateway.api.keys import body_of
from gateway.api.routes import AGateway
from gateway.chat import Caller
from gateway.errors import NotFound
from students.spec import Strict

LABELS = {"good": 1.0, "bad": 0.0}
"""Labels, and the scores that they are."""

MAX_BODY = 4_096

router = APIRouter(prefix="/gkt/v1")


class Feedback(Strict):
    """The body: the id of a request, and either a score from 0 (wrong) to 1 (right) or a label."""

    request_id: str = Field(min_length=1, max_length=200)
    score: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    label: Literal["good", "bad"] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.score is None) == (self.label is None):
            raise ValueError("expected either 'score', from 0 to 1, or 'label', good or bad.")
        return self

    @property
    def value(self) -> float:
        """The score that it comes to."""
        return LABELS[self.label] if self.label is not None else self.score or 0.0


@router.post("/feedback")
async def feedback(
    request: Request, gateway: AGateway, reader: Annotated[Caller | None, Depends(the_reader)]
) -> Response:
    """Put the score of an answer on record, in place of an earlier one. Callers score their own, the admin all.

    Holdouts are scored as other requests are: they are what the others are compared with.
    """
    said = await body_of(request, Feedback, MAX_BODY)
    entry = await gateway.ledger.entry(said.request_id)
    if entry is None or entry["shadow_of"] is not None or (reader is not None and entry["caller"] != reader.id):
        raise NotFound(
            f"No settled request has the id '{said.request_id[:64]}'.", param="request_id", code="request_not_found"
        )
    await gateway.ledger.score(said.request_id, "feedback", said.value, said.label)
    told = {"object": "feedback", "request_id": said.request_id, "score": said.value, "label": said.label}
    return JSONResponse(told, headers={"cache-control": "no-store"})
