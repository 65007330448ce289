"""What ``make fuzz`` has found, each as small as it could be made."""

import json

import pytest
from helpers import STAMP, make_engine, row, rows

DELIVERY = "4A00000001: to=<b@example.net>, relay=local, delay={}, dsn=2.0.0, status=sent (ok)"


def test_a_delay_of_four_hundred_digits_is_no_delay():
    """It was infinite, which no JSON can say."""
    found = row(DELIVERY.format("9" * 400), "postfix/local[7]")
    assert found == {"kind": "other", "service": "local", "queue_id": "4A00000001"}
    assert row(DELIVERY.format("9" * 18), "postfix/local[7]")["delay"] == pytest.approx(1e18)
    assert row(DELIVERY.format("0." + "9" * 15), "postfix/local[7]")["delay"] == pytest.approx(1)
    for digits in (18, 19, 308, 309, 5000):
        json.dumps(rows(STAMP + b"postfix/local[7]: " + DELIVERY.format("1" * digits).encode()), allow_nan=False)


def test_numpys_columns_lie_where_the_rows_fields_do():
    """Their places were worked out through a null pointer, which C leaves undefined."""
    engine = make_engine((), year=2026, keep_all=True)
    batch = engine.feed(STAMP + b"postfix/qmgr[7]: 4A00000001: from=<a@example.com>, size=2103, nrcpt=50 (queue active)\n").events
    (only,) = batch.array()
    assert (only["time"], only["pid"], only["size"], only["nrcpt"], only["uid"]) == (batch.time(0), 7, 2103, 50, -1)


def test_a_daemon_named_like_our_own_word_for_strangers():
    """``*`` stands for a daemon that is not Postfix's, but a log may write it, too."""
    (only,) = rows(b"Oct 24 06:18:01 mx foo/*[7]: connect from unknown[203.0.113.66]")
    assert only["kind"] == "unparsed"
    assert row("connect from unknown[203.0.113.66]", "postfix/*[7]") == {"kind": "other", "service": "*"}


def test_a_port_of_many_digits_is_no_port():
    assert row("connect from unknown[203.0.113.66]:2147483648") == {"kind": "other", "service": "smtpd"}
