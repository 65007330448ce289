"""From a configuration to the objects that it describes: engine, login map, locker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.detect.engine import Engine, OpenMessages
from sentinel.detect.replies import ReplyClassifier, default_replies_path, load_replies
from sentinel.detect.rules import load_rules
from sentinel.detect.senders import Logins
from sentinel.errors import UserError
from sentinel.marked import files, nearest
from sentinel.resources import resource
from sentinel.zones import zone

if TYPE_CHECKING:
    from sentinel.config import Config, LoginSettings
    from sentinel.respond.locks import Locker
    from sentinel.respond.response import Response
    from sentinel.state import State


def engine_of(
    config: Config,
    *,
    rules: Sequence[str] = (),
    replies: Sequence[str] = (),
    year: int | None = None,
    timezone: str | None = None,
    newest: int | None = None,
) -> Engine:
    """The engine of a configuration; what is given besides goes before it."""
    loaded = load_rules(rules or config.rules or None)
    names = [rule.name for rule in loaded]
    for name in config.policy.rules:
        if name not in names:
            raise UserError(f"policy.rules: there is no rule {name}{nearest(name, names)}")
    return Engine(
        loaded,
        networks=config.networks,
        logins=logins_of(config.logins),
        replies=load_replies(replies or config.replies),
        timezone=zone(timezone or config.timezone),
        year=year or config.year,
        newest=newest,
    )


class ReplyFiles:
    """The files that the knowledge of remote replies comes from, to notice when one of them changes."""

    def __init__(self, own: Sequence[str]) -> None:
        self._own = tuple(own)
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Whether a file has come, gone or changed since the last call."""
        before, self._seen = self._seen, self._stamps()
        return before != self._seen

    def load(self) -> ReplyClassifier:
        """The knowledge anew. UserError for what is not right in it."""
        return load_replies(self._own)

    def _stamps(self) -> dict[str, tuple[int, int, int] | None]:
        paths: list[str | Path] = [
            *self._own,
            default_replies_path(),
            resource("rules", "providers.yaml"),
            resource("rules", "dnsbls.yaml"),
        ]
        out: dict[str, tuple[int, int, int] | None] = {}
        for path in paths:
            try:
                for file in files([path]):
                    status = os.stat(file)
                    out[str(file)] = status.st_ino, status.st_size, status.st_mtime_ns
            except OSError:
                out[str(path)] = None
        return out


def locker_of(config: Config | None) -> Locker | None:
    """What locks accounts, or None where no database is configured."""
    if config is None or config.database is None:
        return None
    from sentinel.respond.locks import locker_of_settings

    return locker_of_settings(config.database)


def response_of(config: Config) -> Response:
    """What follows a lock, as configured."""
    from sentinel.respond.queue import PostfixQueue
    from sentinel.respond.response import Response

    chosen = config.response
    access_map = None
    if chosen.access_map is not None:
        from sentinel.respond.locks import AccessMapLocker

        access_map = AccessMapLocker(options=chosen.access_map.model_dump())
    return Response(chosen, PostfixQueue(config.postfix) if chosen.hold else None, access_map)


def remembered_messages(state: State | None, *, account: str | None = None, client_ip: str | None = None) -> tuple[OpenMessages, str]:
    """What the daemon's join knew at its last checkpoint about the messages under way of an account, or from an address; and why
    it is not known, or an empty text.
    """
    nothing = OpenMessages({}, frozenset())
    if state is None:
        return nothing, "there is no state of a daemon"
    try:
        checkpoint = state.load()
        if checkpoint is None:
            return nothing, "the daemon has not saved its state yet"
        engine = Engine(())
        engine.restore(checkpoint.snapshot)
    except ValueError as error:
        return nothing, f"the daemon's last checkpoint can't be read ({error})"
    return engine.open_messages(account=account, client_ip=client_ip), ""


def logins_of(settings: LoginSettings | None) -> Logins:
    """Who may write as whom. UserError for a map that can't be read."""
    if settings is None:
        return Logins()
    owners: dict[str, set[str]] = {}
    for sender, login in _from_file(settings.file) if settings.file else _from_database(settings):
        owners.setdefault(sender, set()).add(login)
    return Logins(owners)


def _from_file(path: str) -> list[tuple[str, str]]:
    """Lines as in Postfix's ``smtpd_sender_login_maps``: a sender or ``@domain``, then its logins, apart by blanks or commas."""
    out: list[tuple[str, str]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                words = line.partition("#")[0].replace(",", " ").split()
                if not words:
                    continue
                if len(words) < 2:
                    raise UserError(f"{path}:{number}: a sender needs at least one login after it")
                out.extend((words[0], login) for login in words[1:])
    except OSError as error:
        raise UserError(f"{path}: the login map can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the login map is not text in UTF-8 (byte {error.start})") from None
    return out


def _from_database(settings: LoginSettings) -> list[tuple[str, str]]:
    import sqlalchemy

    from sentinel.respond.lock_sql import resolve_url

    assert settings.database is not None
    assert settings.query is not None
    url = resolve_url(settings.database.get_secret_value(), None, "logins.database")
    try:
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text(settings.query)).all()
        engine.dispose()
    except ImportError as error:
        hint = "install maillog-sentinel[mysql] or [postgresql]"
        raise UserError(f"logins.database: the driver {error.name} is not installed; {hint}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        # The driver's words may hold the URL and with it the password; the kind of error says enough.
        raise UserError(
            f"logins.database: the query of sender logins failed ({type(error).__name__}); try it with the database's own client"
        ) from None
    if rows and len(rows[0]) != 2:
        raise UserError(f"logins.query must give two columns, sender and login, not {len(rows[0])}")
    return [(str(sender), str(login)) for sender, login in rows if sender is not None and login is not None]
