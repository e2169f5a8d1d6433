"""The command ``tsengine``: one verb per task, each in a ``commands_*`` module.

Exit codes: 0 fine, 1 damage or refused data, 2 wrong usage, or data of a newer version.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import partial

from tsengine import __version__, errors

from . import (
    commands_backup,
    commands_config,
    commands_data,
    commands_delete,
    commands_directory,
    commands_query,
    commands_retention,
    config,
)
from .exits import EXIT_DAMAGE, EXIT_OK, EXIT_USAGE, RefusedError, UsageError

_SERVER_PACKAGES = ("aiohttp", "cramjam")

_DESCRIPTION = """\
A time-series metrics engine: metrics in by Prometheus remote write, answers out by PromQL."""

_EPILOG = """\
try this:
  tsengine serve                                  start a server on 127.0.0.1:9201 with ./data
  tsengine query up --url http://127.0.0.1:9201   ask it
  tsengine query up --data-dir data               ask its directory, with or without a server

Exit codes: 0 fine, 1 damage or refused data, 2 wrong usage, or data of a newer version.
`tsengine VERB --help` explains each verb.
"""

_SERVE_EPILOG = """\
examples:
  tsengine serve
  tsengine serve --data-dir /var/lib/tsengine --listen :9201 --retention 90d
  tsengine serve --config tsengine.yml      tsengine check-config tsengine.yml says if it is fine

Every flag may also be set by the environment variable in its last parentheses, and most in the
configuration file; the flag wins, then the variable. Prometheus's spellings of flags work too.
SIGHUP reads the file again. SIGTERM or Ctrl-C flushes and stops.
"""


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="tsengine", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tsengine {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    serve = verbs.add_parser(
        "serve", help="start the HTTP server", allow_abbrev=False,
        description="Start the HTTP server: remote write in, the Prometheus query API out.",
        epilog=_SERVE_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    config.add_flags(serve)
    serve.set_defaults(run=_serve)
    commands_query.add_verb(verbs)
    commands_data.add_verbs(verbs)
    commands_delete.add_verb(verbs)
    commands_directory.add_verbs(verbs)
    commands_retention.add_verb(verbs)
    commands_backup.add_verbs(verbs)
    commands_config.add_verb(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. argparse leaves with 2 by itself."""
    parsed = make_parser().parse_args(arguments)
    _raise_file_limit()
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except (UsageError, config.ConfigError, errors.ParseError, errors.OptionsError) as error:
        return _fail(EXIT_USAGE, error)
    except (errors.Locked, errors.UnsupportedFormat) as error:
        return _fail(EXIT_USAGE, error)
    except (errors.TsengineError, RefusedError) as error:
        return _fail(EXIT_DAMAGE, error)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        return _fail(EXIT_DAMAGE, error)
    except KeyboardInterrupt:
        return 130
    return code


def _raise_file_limit() -> None:
    """Let the process open as many files as the system allows it: each part keeps two open."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fail(code: int, error: Exception) -> int:
    print(f"tsengine: {error}", file=sys.stderr)
    return code


def _serve(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments, os.environ)
    for package in _SERVER_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UsageError("the server is not installed; run: pip install 'tsengine[server]'")
    # Imported late: the other verbs work without aiohttp. What imports make stays, and the garbage
    # collector would look at it over and over, now and while the server runs.
    gc.disable()
    from .lifecycle import serve

    gc.freeze()
    gc.enable()
    return serve(settings, partial(config.load, arguments, os.environ))


if __name__ == "__main__":
    sys.exit(main())
