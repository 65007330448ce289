"""Whose mail earned a block, and what is said about it."""

import pytest

from sentinel.detect.blocks import attribution, earned, refusal
from sentinel.detect.replies import load_replies


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ([], []),
        # Refusals beyond two in a hundred decide, not mail.
        ([(b"letter", 10_000, 100), (b"thief", 400, 60)], ["thief"]),
        ([(b"one", 500, 100), (b"two", 500, 60), (b"three", 500, 20)], ["one", "two"]),
        # Too few to tell: who sent most of it, if anybody did.
        ([(b"ann", 3, 1), (b"thief", 400, 0)], ["thief"]),
        ([(b"ann", 40, 4), (b"thief", 400, 0)], ["thief"]),
        ([(b"ann", 6, 6), (b"thief", 400, 0)], ["thief"]),
        ([(b"ann", 3, 1), (b"ben", 4, 0), (b"cy", 4, 0)], []),
        # Exactly a fifth, whatever the order.
        ([(b"a", 9, 9), (b"b", 49, 12), (b"c", 37, 36)], ["c", "b"]),
        ([(b"c", 37, 36), (b"b", 49, 12), (b"a", 9, 9)], ["c", "b"]),
        # Two names that are the same text once their bytes are replaced are still two accounts.
        ([(b"\xff", 500, 400), (b"\xfe", 100, 0)], ["\ufffd"]),
    ],
)
def test_who_earned_it(ranking, expected):
    assert [account for account, _, _ in earned(ranking)] == expected


def test_what_is_said_when_nobody_did():
    assert "does not tell" in attribution([], False, 21600)
    assert "No account stands out" in attribution([], True, 21600)
    assert attribution([("thief", 400, 60)], True, 21600) == (
        "In the 6 hours before, it was earned by thief (60 of its 400 deliveries refused)."
    )


def test_refusal_in_a_sentence():
    verdict = load_replies().classify("554 5.7.1 Client host [192.0.2.9] blocked using zen.spamhaus.org")
    told = refusal("example.net", verdict)
    assert told.startswith('example.net blocks 192.0.2.9 on the list zen.spamhaus.org: "554 5.7.1 Client host')
    assert told.endswith("Get off at https://check.spamhaus.org/query/ip/192.0.2.9.")
    assert refusal("yahoo", verdict, "example.org").endswith(" Only its words name yahoo: a host of example.org wrote them.")
