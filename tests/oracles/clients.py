"""Oracle of the known clients: a dict of pairs, in the order of their last logins."""

import ipaddress
from collections import OrderedDict
from typing import Any

SPAN = 30 * 86400.0
LONGEST = 320

Pair = tuple[bytes, str]


def network(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class KnownClients:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pairs: OrderedDict[Pair, float] = OrderedDict()
        self.evicted = 0

    def look(self, row: dict[str, Any], time: float) -> bool:
        """Whether the row's account has logged in from its address before; remembers it if it does so now."""
        account, address = row.get("sasl_username"), row.get("client_ip")
        if account is None or address is None or len(account.encode()) > LONGEST:
            return False
        pair = account.encode().lower(), network(address)
        known = pair in self.pairs and time - self.pairs[pair] <= SPAN
        if row["kind"] in ("accepted", "auth_success"):
            if pair not in self.pairs:
                self._make_room(time)
            self.pairs[pair] = time
            self.pairs.move_to_end(pair)
        return known

    def _make_room(self, time: float) -> None:
        for _ in range(2):
            if self.pairs and time - next(iter(self.pairs.values())) > SPAN:
                self.pairs.popitem(last=False)
        if len(self.pairs) >= self.limit:
            self.pairs.popitem(last=False)
            self.evicted += 1
