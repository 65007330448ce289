"""Oracle of the queue-ID join: messages in a dict, in the order of last use.

It reads rows as the scanner gives them (dicts by public field names) and says of each what the join must know of it.
"""

import ipaddress
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"[0-9A-Za-z]*")


@dataclass
class Message:
    account: str | None = None
    client_ip: str | None = None
    sender: str | None = None
    origin: str = "unknown"
    inside: bool = False
    queued: bool = False
    linked: bool = False
    forwarded: bool = False

    def inherit(self, parent: "Message") -> None:
        self.account, self.client_ip, self.inside = parent.account, parent.client_ip, parent.inside
        self.origin, self.forwarded, self.linked = parent.origin, parent.forwarded, True


@dataclass
class Attributed:
    row: dict[str, Any]
    origin: str = "unknown"
    recipients: int = 0
    """Of a message that is seen for the first time."""
    counted: bool = True
    """Not a retry, not a message that came back, not a hop to a filter."""
    forwarded: bool = False


class Join:
    def __init__(self, networks: list[str], limit: int) -> None:
        self.networks = [ipaddress.ip_network(network) for network in networks]
        self.limit = limit
        self.messages: OrderedDict[tuple[str, str], Message] = OrderedDict()
        self.evicted = self.unattributed = 0

    def holds(self, address: str | None) -> bool:
        if address is None:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None)
        return any((mapped or ip) in network for network in self.networks)

    def obtain(self, key: tuple[str, str]) -> Message:
        if key not in self.messages:
            if len(self.messages) >= self.limit:
                self.messages.popitem(last=False)
                self.evicted += 1
            self.messages[key] = Message()
        self.messages.move_to_end(key)
        return self.messages[key]

    def begin(self, key: tuple[str, str], **origin: Any) -> Message:
        self.obtain(key)
        self.messages[key] = Message(**origin)
        return self.messages[key]

    def attribute(self, row: dict[str, Any]) -> Attributed:
        out = Attributed(dict(row))
        kind, host, queue_id = row["kind"], row.get("host"), row.get("queue_id")
        if queue_id is None:
            return out
        key, linked = (host, queue_id), (host, row.get("linked_queue_id"))
        if kind == "accepted":
            account, ip = row.get("sasl_username"), row.get("client_ip")
            message = self.begin(
                key,
                account=account,
                client_ip=ip,
                inside=self.holds(ip),
                origin="client" if account is None else "login",
            )
            if account is None and linked in self.messages and linked != key:
                message.inherit(self.messages[linked])
                out.counted = False
        elif kind == "picked_up":
            message = self.begin(key, origin="local", sender=row.get("sender"))
            if linked in self.messages and linked != key:
                message.inherit(self.messages.pop(linked))
                out.counted = False
        elif kind == "message_id":
            message = self.obtain(key)
            if message.queued:
                message = self.begin(key)
        elif kind == "queued":
            message = self.obtain(key)
            message.sender = row.get("sender")
            out.counted = not (message.queued or message.linked)
            message.queued = True
            out.recipients = row["nrcpt"] if out.counted else 0
        elif key in self.messages:
            message = self.messages[key]
            self.messages.move_to_end(key)
            if kind == "delivery":
                self.unattributed += message.origin == "unknown"
                out.counted = not self.hand_on(row, key, message)
            elif kind == "bounce_notice" and linked != key:
                self.obtain(linked).origin = "internal"
        else:
            self.unattributed += kind == "delivery"
            if kind == "bounce_notice":
                self.obtain(linked).origin = "internal"
            return out
        for field, value in (
            ("sasl_username", message.account),
            ("client_ip", message.client_ip),
            ("sender", message.sender),
        ):
            if value is not None:
                out.row.setdefault(field, value)
        out.origin, out.forwarded = message.origin, message.forwarded
        if kind == "removed":
            del self.messages[key]
        return out

    def hand_on(self, row: dict[str, Any], key: tuple[str, str], parent: Message) -> bool:
        """Whether this delivery only hands the message to a filter or an alias; links the message that it becomes."""
        if row.get("status") != "sent":
            return False
        reply, service = row.get("reply", ""), row.get("service")
        if service == "local":
            if not reply.startswith("forwarded as "):
                return False
            token = _TOKEN.match(reply, 13)[0]
        elif self.holds(row.get("relay_ip")) or (service in ("lmtp", "pipe") and "relay_ip" not in row):
            _, words, after = reply.rpartition("queued as ")
            if not words:
                return False
            token = _TOKEN.match(after)[0]
        else:
            return False
        child_key = (row.get("host"), token)
        child = self.messages.get(child_key)
        if child is None or child_key == key:
            return False
        if service == "local":
            if child.origin == "unknown":
                child.inherit(parent)
                child.forwarded = True
            return True
        if child.linked:
            return True
        if child.origin == "client" and child.inside and child.account is None:
            child.inherit(parent)
            return True
        return False
