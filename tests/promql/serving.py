"""A real server process whose database can be emptied: a line on stdin makes it serve a new one.

``python -m tests.promql.serving DIRECTORY FLAGS...`` prints ``ready URL`` once and ``cleared``
after each line. It ends when stdin does.
"""

import argparse
import asyncio
import os
import shutil
import sys
from dataclasses import replace

from aiohttp import web

from server import config as server_config
from server.lifecycle import make_runner, open_database
from server.state import Server


def main(directory, flags):
    parser = argparse.ArgumentParser()
    server_config.add_flags(parser)
    config = server_config.load(parser.parse_args(flags), {})
    asyncio.run(_serve(config, directory))


async def _serve(config, directory):
    server = Server(config)
    runner = make_runner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    n_databases = 0
    database = _open(config, directory, n_databases)
    server.set_ready(database)
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        server.set_not_ready("between two databases")
        database.close()
        shutil.rmtree(_path(directory, n_databases))
        n_databases += 1
        database = _open(config, directory, n_databases)
        server.set_ready(database)
        print("cleared", flush=True)
    server.executor.cancel_queries()
    await runner.cleanup()
    server.executor.close()
    database.close()


def _open(config, directory, number):
    return open_database(replace(config, data_dir=_path(directory, number)))


def _path(directory, number):
    return os.path.join(directory, str(number))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
