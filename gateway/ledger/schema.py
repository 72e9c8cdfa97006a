"""The tables of the ledger: calls, requests, their sums, the processes that wrote them, keys of callers, and budgets.

Amounts are whole nano-dollars; NULL means unknown, never 0. Times are seconds since the epoch. Nothing here is
particular to one database: `day` is the ISO date (UTC) as text, JSON is text, and partial indexes exist in both
SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    false,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_start", Text, nullable=False),  # empty where the system does not tell
    Column("heartbeat", Double, nullable=False),
    Column("ended", Double),  # closed in order, or its calls were recovered
)
"""One row for each process that has had the ledger open; what it left open is settled by a later one."""

calls = Table(
    "calls",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("stage", Text, nullable=False),
    Column("seat", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("stand_in", Text),
    # Of the request, so that a recovered entry can be told from its calls alone.
    Column("asked", Text),
    Column("route", Text),
    Column("strategy", Text),
    Column("caller", Text),
    Column("started", Double, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("cut", Boolean, nullable=False),
    Column("bound_amount", BigInteger),
    Column("notional", Boolean, nullable=False),
    Column("is_bound", Boolean, nullable=False),
    # From here on known when the call is over.
    Column("first_token", Double),
    Column("duration", Double),
    Column("finish", Text),
    Column("error", Text),
    Column("input", BigInteger),
    Column("output", BigInteger),
    Column("cached", BigInteger),
    Column("cache_write", BigInteger),
    Column("reasoning", BigInteger),
    Column("seconds", Double),
    Column("usage_source", Text),  # NULL: there is no usage at all
    Column("price", Text),  # JSON: the rates, their source and the row they came from
    Column("amount", BigInteger),
    Column("tier", Text),  # the service tier that the upstream named
    Column("machines", Text),  # JSON: when it ran on whose machine, of a price by the hour; see `rows.machines`
)
"""One row a call: inserted open with its bound before the call is made, completed when its request is settled."""

INTENDED = calls.columns.keys()[: calls.columns.keys().index("is_bound") + 1]
"""The columns of an open call."""

# What recovery looks through; tiny, because calls are open for seconds. A query uses it when it says exactly this.
is_open = calls.c.is_open == true()
Index("ix_calls_open", calls.c.run, sqlite_where=is_open, postgresql_where=is_open)
# The newest calls to one upstream, for how busy its machine is. Nothing in it changes when a call is settled.
Index("ix_calls_upstream_started", calls.c.upstream, calls.c.started)

entries = Table(
    "entries",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("day", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("teacher", Text),
    Column("student", Text),
    Column("error", Text),
    Column("wasted", Text),
    Column("guidance_cache", Text),  # hit, stored, miss or bypassed; NULL: it was not used
    Column("avoided", BigInteger),  # of a hit, what the call that was not made would have cost
    Column("stand_in", Boolean, nullable=False),
    Column("propensity", Double, nullable=False),
    Column("arm", Text),  # NULL: nothing was drawn
    Column("shadow_propensity", Double),
    Column("shadow_drawn", Boolean),  # whether a shadow was to follow; NULL: that was not drawn
    Column("shadow_of", Text),  # the request that this one measures; NULL: it is a client's
    Column("first_token", Double),
    Column("duration", Double),
    Column("visible_input", BigInteger),
    Column("visible_output", BigInteger),
    Column("teacher_tokens", BigInteger),
    Column("spent", BigInteger),  # NULL when any of its calls is unpriced
    Column("unpriced", Boolean, nullable=False),
    # Sums over its priced calls, kept here so that savings reads one table.
    Column("guidance_spent", BigInteger, nullable=False),
    Column("answer_spent", BigInteger, nullable=False),
    Column("fallback_spent", BigInteger, nullable=False),
    Column("measurement_spent", BigInteger, nullable=False, server_default="0"),
    Column("priced_spent", BigInteger, nullable=False),
    Column("notional_spent", BigInteger, nullable=False),
    Column("bound_spent", BigInteger, nullable=False),
    Column("baseline_method", Text),
    Column("baseline_low", BigInteger),
    Column("baseline_likely", BigInteger),
    Column("baseline_high", BigInteger),
    Column("baseline_tokens", BigInteger),
    Column("baseline_of", Text),  # JSON: what the baseline is the price of, see `basis`; NULL: that was not kept
    Column("drafts", Text),  # JSON: the answers that a cascade had, without their words; see `gateway.cascade.kept`
    Column("text", Text),  # JSON, only where storing text was switched on
)
"""One row a request, and one a measurement of one. No prompt or answer text, unless it was asked for."""

# The drafts of a route, newest first; a query uses it when it says exactly this.
is_drafted = and_(entries.c.drafts.is_not(None), entries.c.shadow_of.is_(None))
Index("ix_entries_drafted", entries.c.route, entries.c.at, sqlite_where=is_drafted, postgresql_where=is_drafted)

# Serves time ranges of savings, and newest first. What lists are filtered by is in it, so that the entries of an hour
# are looked through without reading them.
Index("ix_entries_at", *(entries.c[name] for name in ("at", "caller", "model", "strategy", "outcome", "shadow_of")))

# What the report of a route's trade-off is made of, beside the requests that somebody scored: few of all.
is_telling = entries.c.arm.is_not(None) | entries.c.shadow_propensity.is_not(None)
Index("ix_entries_telling", entries.c.at, sqlite_where=is_telling, postgresql_where=is_telling)

GROUPED = ("caller", "model", "strategy", "route", "outcome")
"""What a rollup has of an entry as it is; beside it, its time and the method of its baseline."""

MEASURES = (
    "requests",
    "spent",
    "guidance",
    "answer",
    "fallback",
    "unpriced",
    "notional",
    "bound",
    "wasted",
    "wasted_spent",
    "compared",
    "compared_spent",
    "likely",
    "low",
    "low_known",
    "high",
    "high_known",
    "teacher_tokens",
    "baseline_tokens",
    "corrected",
    "measurement",
    "shadows",
    "shadows_unpriced",
)
"""Counts and sums of a rollup; `savings.SUMS` says of what."""


@dataclass(frozen=True, slots=True)
class Level:
    """How finely rollups are kept: over `hours`, and of what apart. What is summed together is empty there.

    `by_caller`: each caller. `by_plan`: each model, strategy and route. Outcomes and methods always are. `of`: the
    finer level whose sums these are, the smallest of those that tell; None: of the entries.
    """

    number: int
    hours: int
    by_caller: bool
    by_plan: bool
    of: int | None


LEVELS = (
    Level(1, 1, True, True, None),
    Level(2, 24, True, True, 1),
    Level(4, 1, False, True, 1),
    Level(3, 24, False, True, 4),
    Level(5, 1_536, False, True, 3),
    Level(6, 24, True, False, 2),
    Level(7, 192, True, False, 6),
    Level(8, 1_536, True, False, 7),
    Level(9, 12_288, True, False, 8),
)
"""Each behind the one that it is made of. Days (UTC) answer for years; without callers they are few.

Callers may be thousands, who ask in most hours: of them alone there are sums over 1, 8, 64 and 512 days, so that a
range takes few rows of each. What is kept for all callers together costs a batch of requests next to nothing.
"""


def _measures() -> Iterator[Column[int]]:
    """The columns of the measures; the later ones came to tables that had rows."""
    for name in MEASURES:
        later = name in ("measurement", "shadows", "shadows_unpriced")
        yield Column(name, BigInteger, nullable=False, server_default="0" if later else None)


rollups = Table(
    "rollups",
    metadata,
    Column("level", Integer, primary_key=True),
    Column("hour", BigInteger, primary_key=True),  # the first one, in hours since the epoch
    *(Column(name, Text, primary_key=True) for name in GROUPED),
    Column("method", Text, primary_key=True),  # empty: there is no baseline
    *_measures(),
    sqlite_with_rowid=False,
)
"""Sums over entries and their corrections, written with them."""

corrections = Table(
    "corrections",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),  # the first of a request is 1
    Column("made", Double, nullable=False),
    # Of its entry, as it was when it was corrected.
    Column("at", Double, nullable=False, index=True),
    Column("day", Text, nullable=False),
    *(Column(name, Text, nullable=False) for name in GROUPED),
    Column("baseline_method", Text),
    Column("calls", Text, nullable=False),  # JSON: by the call's id the amount before and after, and the price used
    Column("baseline", Text),  # JSON: the amounts that the baseline has from now on, see `standing`; NULL: as before
    *_measures(),
)
"""What later prices and measurements change about settled requests: by how much each measure differs.

Entries are never edited. A measured baseline is two rows: everything leaves the method that it had, for `measured`.
"""

measurements = Table(
    "measurements",
    metadata,
    Column("request_id", Text, primary_key=True),  # of the client's request
    Column("shadow_id", Text, nullable=False),  # of the entry with the calls to the teacher
    Column("at", Double, nullable=False, index=True),  # when the client asked
    Column("route", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("model", Text, nullable=False),  # the teacher's, as prices know it
    Column("propensity", Double, nullable=False),  # of being served by this arm and measured
    # Tokens, as the client was shown them and as the teacher alone wrote them.
    Column("shown_input", BigInteger),
    Column("shown_output", BigInteger),
    Column("teacher_input", BigInteger),
    Column("teacher_output", BigInteger),
    Column("cost", BigInteger),  # NULL: the teacher has no price; the baseline stays as it was
    Column("price", Text),  # JSON, as in `calls`
)
"""What the teacher alone wrote for a request that it shadowed, and what that cost: one row a shadow that succeeded."""

scores = Table(
    "scores",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("source", Text, primary_key=True),  # feedback, or agreement with the teacher's own answer
    Column("made", Double, nullable=False),
    Column("value", Double, nullable=False),  # from 0 to 1
    Column("label", Text),
    Column("at", Double),  # when the client asked; NULL: the request is not on record, or was not when it was scored
)
"""How good an answer was: one row a request and source, of which the last word counts. No text."""

# The requests that were scored, in the order of time, for the report of a route's trade-off.
Index("ix_scores_source_at", scores.c.source, scores.c.at)

marks = Table("marks", metadata, Column("name", Text, primary_key=True), Column("hour", BigInteger, nullable=False))
"""`pruned`: entries before this hour (the first of a day) may have been removed; their rollups have not.

`mended`: no hour, but how many transactions have mended rollups (see `mending`).
"""

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),  # the `caller` of entries and calls
    Column("name", Text, nullable=False),
    Column("owner", Text),
    # JSON lists; NULL: no limit.
    Column("tags", Text, nullable=False),
    Column("models", Text),
    Column("strategies", Text),
    Column("overrides", Text),
    # NULL: as the configuration says.
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent", BigInteger),
    Column("budgets", Text),  # a JSON list of {"usd": "10", "per": "day"}
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("version", Integer, nullable=False),  # grows with every change: their sum tells whether there was one
)
"""One row a key that was made while the gateway ran; never deleted."""

key_secrets = Table(
    "key_secrets",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 in hexadecimal digits; the secret itself is nowhere
    Column("key_id", ForeignKey("keys.id"), nullable=False, index=True),
    Column("hint", Text, nullable=False),  # its first characters
    Column("created_at", Double, nullable=False),
    Column("valid_until", Double),  # NULL: as long as its key
)
"""The secrets of keys: one each, and those that it had before it was rotated."""

refusals = Table(
    "refusals",
    metadata,
    Column("hour", BigInteger, primary_key=True),  # since the epoch
    Column("caller", Text, primary_key=True),
    Column("reason", Text, primary_key=True),  # as `gateway.admission.reason` has it
    Column("count", BigInteger, nullable=False),
)
"""How many requests were refused because of a limit or a budget: what was refused is in no account."""

ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 in hexadecimal digits of the session's name
    Column("until", Double, nullable=False),  # when it would have ended by itself; then the row may go
)
"""Sessions of the dashboard that somebody logged out of."""

spending = Table(
    "spending",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("period", Text, primary_key=True),  # as in `gateway.shared.budget.Span`
    Column("used", BigInteger, nullable=False),
    Column("keep_until", BigInteger, index=True),  # NULL: for ever
)
"""What is spent or put aside of each budget, one row a period; kept for some days after the period."""

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("periods", Text, nullable=False),  # JSON: those of `spending` that hold the amount
    Column("amount", BigInteger, nullable=False),
    Column("keep_until", BigInteger, index=True),  # when the last of its periods goes; NULL: never
    # NULL: nobody knows whose it is, or (`run`) it was settled for a process that died; see `charges`.
    Column("request_id", Text),
    Column("run", Integer),
    Column("own_key", Boolean, nullable=False, server_default=false()),  # the caller's own key pays the teacher
)
"""What is put aside and not settled. Settling removes the row, so that nothing is settled twice."""
