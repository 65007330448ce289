"""Which envelope senders a login may write as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Logins:
    """Decides whether a sender belongs to a login, without regard to case.

    With a map it decides as Postfix's ``smtpd_sender_login_maps`` do: the sender's address is looked up, then its ``@domain``; the
    login must be among the owners. Senders that the map doesn't know fall back to the rule without a map: a sender in the login's own
    domain is its own. A login without a domain owns the senders of the same local part and, where ``domains`` are known, any sender in
    them; where they are not, a sender elsewhere can't be told from an alias and counts as owned.
    """

    def __init__(self, owners: Mapping[str, Iterable[str]] | None = None, domains: Iterable[str] = ()) -> None:
        """``owners``: sender address or ``@domain`` → logins. ``domains``: those that this server writes for."""
        self._owners = {sender.lower(): frozenset(login.lower() for login in logins) for sender, logins in (owners or {}).items()}
        self._domains = frozenset(domain.lower() for domain in domains)

    @property
    def by_domain(self) -> bool:
        """Whether a sender in the login's own domain is owned for certain: there is no map to say otherwise."""
        return not self._owners

    def owns(self, login: bytes, sender: bytes) -> bool:
        who, address = login.decode("utf-8", "replace").lower(), sender.decode("utf-8", "replace").lower()
        local, _, domain = address.rpartition("@")
        if self._owners:
            owners = self._owners.get(address) or self._owners.get(f"@{domain}")
            if owners is not None:
                return who in owners
        _, at, home = who.rpartition("@")
        if at:
            return domain == home
        return local == who or domain in self._domains or not self._domains or not domain
