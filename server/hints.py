"""What a newcomer can do with a fresh server, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config

_QUERY = "curl '{url}/api/v1/query?query=up'"


def hints_text(url: str, config: Config) -> str:
    """A curl line, the remote_write snippet and the Grafana data source of a server at `url`."""
    if config.self_scrape_s is None:
        query = f"curl '{url}/api/v1/query?query=1%2B1'"
    else:
        query = _QUERY.format(url=url)
    return f"""
Ask it something:
  {query}

Send it your metrics; in prometheus.yml:
  remote_write:
    - url: {url}/api/v1/write

Look at them in Grafana: add a data source of type Prometheus with the URL
  {url}

Stop with Ctrl-C. Data is in {config.data_dir}.
"""
