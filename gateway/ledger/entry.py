"""The rows of the ledger, and the seam between the gateway and whatever keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from gateway.cascade.kept import Kept
from gateway.chat import Arm, CacheOutcome, Call, Outcome, StrategyName
from gateway.ledger.basis import Basis
from pricing.baseline import Baseline
from pricing.length_ratio import Pairs
from pricing.live import Window
from pricing.money import Money

if TYPE_CHECKING:
    from gateway.ledger.sums import Brief, Sums

SHADOW = "-shadow"


def shadow_id(request_id: str) -> str:
    """The id of the entry that a measurement of this request has."""
    return request_id + SHADOW


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, settled. Its spending is the sum of the lines of its `calls`.

    `at` is seconds since the epoch (UTC); `first_token` and `duration` are seconds. `wasted` says why guidance
    that was paid for was not used. `stand_in` is True when any line is notional. `teacher_tokens` are the
    teacher's output tokens over all calls, None when unknown. `text` is None unless storing it was switched on.
    `arm` and `shadow_propensity` are the plan's. `shadow_of`: this is no client's request but a measurement of the one
    with that id, whose model, route, strategy and caller it has; see `shadow_id`. `guidance_cache` is the exchange's;
    `avoided` what its hit saved: the price of the call that was not made, None where there is no hit or no price.
    `shadow_drawn`: whether a shadow is to follow, None where that was not drawn. `drafts` are the answers that a
    cascade had, or that its shadow had beside them. `baseline_of` is what the baseline is the price of; None: unknown.
    """

    request_id: str
    at: float
    model: str
    route: str
    strategy: StrategyName
    why: str
    caller: str
    outcome: Outcome
    stream: bool
    calls: Sequence[Call]
    baseline: Baseline | None
    teacher: str | None = None
    student: str | None = None
    error: str | None = None
    wasted: str | None = None
    stand_in: bool = False
    propensity: float = 1.0
    first_token: float | None = None
    duration: float | None = None
    visible_input: int | None = None
    visible_output: int | None = None
    teacher_tokens: int | None = None
    text: Mapping[str, Any] | None = None
    arm: Arm | None = None
    shadow_propensity: float | None = None
    shadow_of: str | None = None
    guidance_cache: CacheOutcome | None = None
    avoided: Money | None = None
    shadow_drawn: bool | None = None
    drafts: Sequence[Kept] = ()
    baseline_of: Basis | None = None

    @property
    def spent(self) -> Money | None:
        """The sum of all lines; None when any call is unpriced."""
        amounts = [call.line.amount if call.line else None for call in self.calls]
        return None if any(amount is None for amount in amounts) else Money.total(a for a in amounts if a is not None)


@dataclass(frozen=True, slots=True)
class SavingsRow:
    """Sums over the entries of one group (a day, a model, a strategy, or all).

    `spent` sums every priced line, `unpriced` counts the requests with a line that has no price. `saved` and
    `share` (spent / baseline) are over those requests alone whose spending and baseline are both known
    (`compared` of them, whose own spending is `compared_spent`); None when there is none. Baselines are kept
    apart by method. `notional` is the part of `spent` that a stand-in did not really spend; `bound` the part that
    is booked at its bound after a crash. Measurements are no requests: what they cost is in `spent`, as the stage
    `measurement`, and in nothing that is compared; `shadows` counts them by their outcome.
    """

    group: str
    requests: int
    outcomes: Mapping[str, int]
    spent: Money
    spent_by_stage: Mapping[str, Money]
    baseline_by_method: Mapping[str, Money]
    baseline_low: Money | None
    baseline: Money | None
    baseline_high: Money | None
    compared: int
    compared_spent: Money
    saved: Money | None
    share: float | None
    wasted: int
    wasted_spent: Money
    unpriced: int
    notional: Money
    bound: Money
    teacher_output_tokens: int
    baseline_output_tokens: int
    output_token_share: float | None
    """The paper's measure: teacher output tokens / baseline output tokens, over requests where both are known."""
    corrected: Money = Money.ZERO
    """How much of `spent` are corrections: by later prices, not by what was booked at the time. May be negative."""
    shadows: Mapping[str, int] = field(default_factory=dict)
    shadows_unpriced: int = 0

    @property
    def missed(self) -> Mapping[str, int]:
        """Shadows that were drawn and measured nothing, by their outcome: `skipped` for want of room, `failed`, ...

        They are no random part of what was drawn: busy hours skip, and what is hard to answer fails.
        """
        return {outcome: count for outcome, count in self.shadows.items() if outcome != "ok"}

    @property
    def measurement(self) -> Money:
        """What measuring cost: a part of `spent`, and not of `compared_spent`."""
        return self.spent_by_stage.get("measurement", Money.ZERO)

    @property
    def saved_after_measurement(self) -> Money | None:
        """`saved`, less what measuring it cost."""
        return None if self.saved is None else self.saved - self.measurement


@dataclass(frozen=True, slots=True)
class BriefRow:
    """What a page tells of a group: a few fields of its `SavingsRow`, each with the same value."""

    group: str
    requests: int
    spent: Money
    baseline: Money | None
    saved: Money | None
    share: float | None
    unpriced: int


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries to sum: a half-open time range in seconds since the epoch, filters, and a grouping."""

    since: float | None = None
    until: float | None = None
    model: str | None = None
    strategy: str | None = None
    by: str | None = None
    """day, model, strategy, caller or hour; None: one row for all."""
    caller: str | None = None
    outcome: str | None = None
    ahead: tuple[tuple[int, int], ...] = ()
    """Of days that are not UTC's: from which hour since the epoch on a zone is how many whole hours ahead; in order."""


class Stay(NamedTuple):
    """From when to when a call ran on the machine of an engine, and how many of these seconds were its share."""

    engine: str
    began: float
    ended: float
    share: float


class Timed(NamedTuple):
    """When a call began and how long it took, in seconds, and the nano-dollars booked for it; None where unknown.

    `seconds` are those that it was charged for. `stays` say where it ran; empty: no engine said.
    """

    started: float
    duration: float | None
    amount: int | None
    seconds: float | None = None
    stays: Sequence[Stay] = ()


class Made(NamedTuple):
    """A settled call, as far as its speed goes; seconds and nano-dollars, None where unknown."""

    request_id: str
    upstream: str
    output: int | None
    first_token: float | None
    duration: float | None
    error: str | None
    cut: bool
    amount: int | None


class Listed(NamedTuple):
    """A settled request, as a list of many tells of it; the fields are those of `Ledger.entry`, None where unknown."""

    at: float
    request_id: str
    model: str
    strategy: str
    outcome: str
    caller: str
    visible_input: int | None
    visible_output: int | None
    spent: int | None
    baseline_likely: int | None
    baseline_method: str | None
    first_token: float | None
    duration: float | None
    wasted: str | None
    error: str | None
    stand_in: bool


LengthKey = tuple[str, str, str]
"""What decides about lengths: route, strategy, and the teacher's model."""


Source = Literal["feedback", "agreement"]
"""Who says so: whoever asked (or the admin), or the teacher's own answer, seen by a shadow."""


@dataclass(slots=True)
class Traffic:
    """The requests of one route that say something of its trade-off, oldest first, and what measuring cost.

    `spent` sums the shadows' calls in nano-dollars, `unpriced` counts the shadows without a price. `notional`: some of
    the requests were answered by a stand-in. `strategies` counts what served, holdouts aside.
    """

    requests: Window = field(default_factory=lambda: Window.of(()))
    spent: int = 0
    unpriced: int = 0
    notional: bool = False
    strategies: Counter[str] = field(default_factory=Counter)


class Ledger(Protocol):
    """Keeps accounts of calls and entries. One owner writes; many tasks ask. Amounts are exact.

    `intend` and `settle` return once the rows are committed (they are written in groups), and raise
    `gateway.errors.Busy` when the ledger cannot take more.
    """

    @property
    def waiting(self) -> int:
        """How many intents and entries are not yet committed."""
        ...

    @property
    def spooled(self) -> int:
        """How many bytes wait on this process's disk for the database."""
        ...

    @property
    def away(self) -> bool:
        """Whether the database takes no rows now: they wait on disk, or in memory."""
        ...

    @property
    def full(self) -> bool:
        """Whether calls are refused for want of room on disk."""
        ...

    async def intend(self, call: Call) -> None:
        """Put a call that can cost money on record before it is made."""
        ...

    async def settle(self, entry: Entry) -> None:
        """Write the entry and close all its calls, in one transaction. A second settle of the same id is ignored."""
        ...

    async def entry(self, request_id: str) -> Mapping[str, Any] | None:
        """One entry with its calls as plain data (amounts in nano-dollars), or None."""
        ...

    async def savings(self, query: Query = Query()) -> Sequence[SavingsRow]:
        """Sums of the settled entries, one row a group, ordered by group."""
        ...

    async def sums(self, query: Query = Query()) -> Mapping[str, Sums]:
        """The same by group, not yet made into rows: for who shows few of many groups, or adds them up."""
        ...

    async def brief(self, query: Query) -> Mapping[str, Brief]:
        """A few of the measures by group (no hours or days), in no order: several times as fast, of many groups."""
        ...

    async def names(self, query: Query, *, limit: int) -> Sequence[str]:
        """The groups of `query` that most requests are of, at most `limit`, in order; of whole hours."""
        ...

    async def entries(
        self, query: Query = Query(), *, limit: int = 100, before: tuple[float, str] | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The newest entries that `query` wants, newest first, as plain data without their calls.

        `before`: only those older than the entry with this `at` and `request_id`, for paging.
        """
        ...

    async def listed(
        self, query: Query = Query(), *, limit: int = 100, before: tuple[float, str] | None = None
    ) -> Sequence[Listed]:
        """The same, as far as a list has room for it: of thousands, in a fraction of the time."""
        ...

    async def calls(self, query: Query = Query(), *, limit: int = 1000) -> Sequence[Made]:
        """The settled calls of the newest `limit` entries that `query` wants, in no order."""
        ...

    async def timed(
        self, upstream: str, *, since: float | None = None, until: float | None = None, limit: int = 1000
    ) -> Sequence[Timed]:
        """The newest `limit` settled calls to `upstream` that began in a range of time, newest first."""
        ...

    async def lengths(self, since: float) -> Mapping[LengthKey, Pairs]:
        """Sums over the lengths of the answers that were measured from `since` on (seconds since the epoch)."""
        ...

    async def climbed(self, route: str, since: float, limit: int) -> Sequence[Sequence[Kept]]:
        """The drafts of the newest `limit` requests since then that this route's cascade answered, its shadows' too."""
        ...

    async def score(self, request_id: str, source: Source, value: float, label: str | None = None) -> None:
        """Put a score from 0 to 1 on record, in place of an earlier one of the same source.

        Raises `gateway.errors.Busy`: it is not.
        """
        ...

    async def observed(self, since: float | None = None, until: float | None = None) -> tuple[dict[str, Traffic], bool]:
        """The traffic of each route that was measured or scored in a range of time; and whether there was more."""
        ...

    async def aclose(self) -> None:
        """Write everything that waits, then close. Idempotent."""
        ...
