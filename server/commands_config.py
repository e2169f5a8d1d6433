"""``tsengine check-config``: what a configuration file says, and whether it may."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import config
from .config_settings import SETTINGS
from .exits import EXIT_DAMAGE, EXIT_OK, UsageError

_CHECK_CONFIG = """\
Check a configuration file without starting anything.

Prints what the file sets; what is wrong is named with file, line and key, and ends with exit code
1. Flags of `tsengine serve` may follow: they, and TSENGINE_* variables, win over the file, and a
warning names what they hide."""


def add_verb(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "check-config", help=_CHECK_CONFIG.splitlines()[0], description=_CHECK_CONFIG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="the configuration file (YAML)")
    config.add_flags(parser, with_config=False)
    parser.set_defaults(run=run_check_config, config=None)


def run_check_config(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 if the file is not one."""
    from .config_file import read_config

    path = arguments.file
    if not os.path.isfile(path):
        raise UsageError(f"{path}: there is no such file")
    arguments.config = path
    try:
        found = read_config(path)
        config.load(arguments, os.environ)
    except config.ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_DAMAGE
    for setting in SETTINGS:
        if setting.key not in found:
            continue
        line = found[setting.key].line
        shown = setting.kind.show(found[setting.key].value) or "none"
        sys.stdout.write(f"{path}:{line}: {setting.path} = {shown}\n")
        winner = config.given(setting, arguments, os.environ)
        if winner is not None:
            sys.stdout.write(
                f"{path}:{line}: warning: {winner[1]} sets {setting.path} to {winner[0]} instead\n"
            )
    n = len(found)
    sys.stdout.write(f"{path}: fine, {n} setting{'' if n == 1 else 's'}\n")
    return EXIT_OK
