"""``sentinel run``."""

from __future__ import annotations

import argparse

from sentinel.cli import EXIT_OK
from sentinel.config import Config, load_config
from sentinel.daemon import Daemon
from sentinel.errors import UserError

_OF_THE_FILE = ("log", "state", "database", "preset", "enforce", "listen", "rules", "replies", "timezone", "year")


def main(arguments: argparse.Namespace) -> int:
    Daemon(_config(arguments), from_start=arguments.from_start, config_path=arguments.config).run()
    return EXIT_OK


def _config(arguments: argparse.Namespace) -> Config:
    if arguments.config:
        given = [name for name in _OF_THE_FILE if getattr(arguments, name)]
        if given:
            raise UserError(f"--config says it all; --{given[0]} can't be given with it: put it into {arguments.config}")
        return load_config(arguments.config)
    if not arguments.log:
        raise UserError("nothing to follow: give --log PATH (like --log /var/log/mail.log) or --config FILE")
    return Config.from_arguments(**{name: getattr(arguments, name) for name in _OF_THE_FILE})
