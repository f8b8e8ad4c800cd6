"""Serves the live picture's page with a made-up fleet, for looking at it and measuring it.

    python3 picture_fake.py PORT    the fleet, until it is interrupted
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "web"
POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NAMES = (
    "web-1 web-2 web-3 api-1 api-2 api-3 queue worker-1 worker-2 worker-3 postgres replica "
    "cache mailer search-1 search-2 metrics grafana checkout-service-canary-7 backup"
).split()


def on(network, ip, interface="eth0", **more):
    return {
        "network": network,
        "interface": interface,
        "ips": [ip],
        "mac": "02:42:0a:58:00:" + format(int(ip.split(".")[-1]), "02x"),
        "aliases": [],
        "ports": [],
        "phase": "attached",
        "origin": "label",
        **more,
    }


def container(node, name, networks, state="running", **more):
    return {
        "id": name,
        "node": node,
        "state": state,
        "pid": 4242 if state == "running" else 0,
        "exit": 137 if state == "stopped" else None,
        "restart": {"policy": "always", "count": 2, "stopped": False},
        "networks": networks,
        "problems": [],
        **more,
    }


def fleet():
    """Three nodes with some forty containers."""
    containers = []
    for at, node in enumerate(["edge-1", "edge-2", "edge-3"]):
        for number, name in enumerate(NAMES[: 14 - at]):
            front = on("web", f"10.88.{at}.{number + 2}", ports=["8080:80"] if number == 0 else [])
            back = on("backend", f"10.89.{at}.{number + 2}", "eth1" if number < 6 else "eth0")
            both = [front, back] if number in (3, 4) else [front] if number < 6 else [back]
            containers.append(container(node, f"{name}", both))
    for it in containers:
        if it["node"] == "edge-2" and it["id"] == "worker-1":
            it["networks"] = []
            it["state"] = "stopped"
        if it["node"] == "edge-1" and it["id"] == "queue":
            told = "cannot connect queue to lost: there is no network lost"
            it["problems"] = [{"container": "queue", "network": "lost", "message": told}]
    containers += [container("edge-1", name, [], state) for name, state in
                   [("migrate", "stopped"), ("debug-shell", "running"), ("next-job", "created")]]
    node = {"state": "live", "version": "0.9.0", "kernel": "6.1.0-38", "cpus": 8, "memory": 16 << 30}
    return {
        "node": "edge-1",
        "version": "0.9.0",
        "registry": {"connected": True, "failure": ""},
        "nodes": [{"name": f"edge-{n}", "seen": n, **node} for n in (1, 2, 3)],
        "networks": ["backend", "web"],
        "containers": containers,
        "problems": [],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, kind, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if path == "/api/state":
            self.answer("application/json", json.dumps(self.server.state).encode())
        elif path.startswith("/api/networks/"):
            told = {
                "name": path.split("/")[-1],
                "plugins": ["bridge", "portmap", "firewall"],
                "subnets": ["10.88.0.0/16"],
                "ipam": "circuit",
                "pools": [{"name": "", "ipv6": False, "size": 65533, "used": 18}],
                "problems": [],
            }
            self.answer("application/json", json.dumps(told).encode())
        elif path == "/api/events":
            self.events()
        else:
            self.file(path)

    def file(self, path):
        file = PAGE / (path.lstrip("/") or "index.html")
        if not file.is_file() or PAGE not in file.resolve().parents:
            self.answer("text/plain", b"there is nothing here\n", 404)
            return
        self.answer(KINDS.get(file.suffix, "text/plain"), file.read_bytes())

    def events(self):
        if self.server.full:
            self.answer("text/plain", b"64 pages watch already: close one\n", 503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        told = 0
        while not self.server.over.is_set():
            for number, event in enumerate(self.server.events[told:], told + 1):
                self.wfile.write(f"id: {number}\ndata: {json.dumps(event)}\n\n".encode())
            told = len(self.server.events)
            self.wfile.flush()
            self.server.over.wait(0.1)

    def log_message(self, *_):
        pass


class Fake(ThreadingHTTPServer):
    """A daemon's page without the daemon."""

    daemon_threads = True

    def __init__(self, state, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state
        self.over = threading.Event()
        self.events = []
        self.asked = []
        # Whether nobody else may listen to events.
        self.full = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def tell(self, kind, **event):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        empty = {"container": "", "network": "", "interface": "", "ips": [], "message": ""}
        self.events.append({"at": at, "node": "edge-1", "kind": kind, **empty, **event})

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()


def lively(fake):
    """Some things that have happened."""
    fake.tell("node.joined", node="edge-3")
    for name, ip in [("web-1", "10.88.0.2"), ("api-1", "10.88.0.5"), ("queue", "10.89.0.8")]:
        fake.tell("task.started", container=name, message="pid 4242")
        fake.tell("container.connected", container=name, network="web", ips=[ip])
    told = "there is no network lost: create it, or take it out of the label"
    fake.tell("container.problem", container="queue", network="lost", message=told)


if __name__ == "__main__":
    with Fake(fleet(), int(sys.argv[1])) as server:
        lively(server)
        print(server.url, flush=True)
        threading.Event().wait()
