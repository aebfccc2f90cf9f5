"""Figures of running pods for Prometheus, over HTTP: processor time, memory, processes, disks, pressure, states.

    python examples/exporter.py 127.0.0.1:9753
    curl http://127.0.0.1:9753/metrics

Each scrape asks the pods' cgroups; nothing is kept in between.  `pyrun stats --format openmetrics` prints the same for the
textfile collector of node_exporter, without a server.
"""

from __future__ import annotations

import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyrun
from pyrun.pod.stats import metrics


def scrape() -> str:
    """What there is to tell now, as OpenMetrics text."""
    pods = pyrun.list_pods()
    figures = []
    for one in pods:
        if one["state"] in ("running", "paused"):
            try:
                figures.append(pyrun.attach(str(one["uuid"])).stats())
            except pyrun.StateError:
                continue  # it has just ended, or has no cgroup
    lines = ["# TYPE pyrun_pods gauge"]
    lines += [f'pyrun_pods{{state="{state}"}} {count}' for state, count in sorted(Counter(str(one["state"]) for one in pods).items())]
    return "\n".join([*lines, metrics(figures, {str(one["uuid"]): str(one.get("pod_name", "")) for one in pods})])


class Handler(BaseHTTPRequestHandler):
    """GET /metrics."""

    def do_GET(self) -> None:
        """Answer."""
        if self.path != "/metrics":
            self.send_error(404)
            return
        try:
            body = scrape().encode()
        except pyrun.PyrunError as error:
            self.send_error(503, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> int:
    """The command."""
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9753").rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
