"""Brings a database to the shape that `schema` describes, whichever shape it has.

The steps lie in `migrations/versions`, one file each, and are run by Alembic. To add one: change `schema`, then
`python -m gateway.ledger.migrate URL "what changes"` writes the next step by comparing a database that is up to
date with the new schema; read it, mend it, and set `HEAD`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, MetaData, String, Table, create_engine, insert, inspect, select

from gateway.errors import ConfigError
from gateway.ledger.schema import metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0016"
"""The last step. Here as well as in its file, so that a database that is new or up to date opens without Alembic."""

_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def config(connection: Connection) -> Config:
    """Alembic's configuration for work on `connection`; needs no alembic.ini."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    made.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    made.attributes["connection"] = connection
    return made


def current(connection: Connection) -> str | None:
    """The step that the database is at; None: it has no ledger in it."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.execute(select(_version.c.version_num)).scalar()


def upgrade(connection: Connection) -> None:
    """Create what is missing, within the transaction that `connection` is in.

    An empty database gets the present shape at once, an older one the steps that it lacks (a test holds the two
    equal). The caller holds a lock against other processes that do the same. Raises `ConfigError` for a database
    that this version does not know.
    """
    if not inspect(connection).has_table(_version.name):
        metadata.create_all(connection, checkfirst=False)
        _version.create(connection)
        connection.execute(insert(_version).values(version_num=HEAD))
        return
    step = current(connection)
    if step == HEAD:
        return
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(config(connection), "head")
    except CommandError as error:
        raise ConfigError(f"the ledger's database is of a version that this gateway does not know: {step}") from error


def _main(url: str, message: str) -> None:
    from alembic import command

    with create_engine(url).begin() as connection:
        upgrade(connection)
        command.revision(config(connection), message, autogenerate=True, rev_id=f"{int(HEAD) + 1:04d}")


if __name__ == "__main__":
    _main(*sys.argv[1:3])
