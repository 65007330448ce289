"""``sentinel config check``."""

from __future__ import annotations

import argparse

from sentinel.cli import EXIT_OK
from sentinel.config import load_config
from sentinel.errors import UserError
from sentinel.respond.ban import check_rules
from sentinel.respond.targets import targets_of
from sentinel.wiring import engine_of, locker_of, response_of


def main(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.file)
    try:
        engine = engine_of(config)
        locker = locker_of(config)
        targets = targets_of(config)
        steps = list(response_of(config).after_lock(0.0))
        if config.ban is not None:
            check_rules(config.ban, [rule.name for rule in engine.rules])
    except UserError as error:
        raise UserError(f"{arguments.file}: {error}") from None
    if locker is not None:
        locker.close()
    print(f"{arguments.file}: ok")
    print(f"  follows {', '.join(config.log)}; state in {config.state}; listens on {config.listen}")
    print(f"  {len(engine.rules)} rules; policy: {config.policy.mode}, lock at a score of {config.policy.lock_at:g}")
    if config.database is not None:
        print(f"  locks by the preset {config.database.preset}; then: {', '.join(steps) or 'nothing'}")
    if targets:
        print(f"  tells {', '.join(target.name for target in targets)}; try them with: sentinel notify test --config {arguments.file}")
    if config.ban is not None:
        print(f"  bans addresses by {config.ban.by}, for {', '.join(config.ban.rules)}")
    return EXIT_OK
