"""A stand-in for a cluster of Kubernetes, which the real `kubectl` talks to: pods are processes of this machine.

    cluster = Cluster(home, environ)  # of the pods
    cluster.start(); cluster.is_full = True; cluster.pods; cluster.stop()

It has jobs and pods of any namespace, and `exec` as of v5.channel.k8s.io. What is not known is answered by 404.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from tests.support import Json

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_STDIN, _STDOUT, _STDERR, _ERROR, _CLOSE = 0, 1, 2, 3, 255
_KINDS = {"jobs": ("Job", "batch/v1", "batch"), "pods": ("Pod", "v1", "")}
# All that `kubectl create` wants to know: that the server validates what it gets.
_SEE_OPENAPI = {"serverRelativeURL": "/openapi/v3/apis/batch/v1?hash=1"}
_PATCH = {
    "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
    "responses": {},
    "x-kubernetes-group-version-kind": {"group": "batch", "version": "v1", "kind": "Job"},
}
_OPENAPI = {
    "openapi": "3.0.0",
    "info": {"title": "Kubernetes", "version": "v1"},
    "paths": {"/apis/batch/v1/namespaces/{namespace}/jobs/{name}": {"patch": _PATCH}},
}
# As recorded in fixtures/recordings/kubernetes.
_FAILED = {
    "status": "True",
    "reason": "BackoffLimitExceeded",
    "message": "Job has reached the specified backoff limit",
}
_REVIEW = "authorization.k8s.io/v1"
_VERBS = ["create", "delete", "get", "list", "patch", "watch"]


class Pod:
    """A container that runs, or waits, and what the cluster says of it."""

    def __init__(self, job: Json, home: str, environ: dict[str, str], suffix: str = "x7k2p") -> None:
        self.name = f"{job['metadata']['name']}-{suffix}"
        template = job["spec"]["template"]
        self.labels, (self._container,) = template["metadata"]["labels"], template["spec"]["containers"]
        self._home, self._environ = home, environ
        self._made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [*self._container["command"], *self._container["args"]]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            argv, env=self._environ, cwd=self._home, stdin=null, stdout=null, stderr=null, start_new_session=True
        )

    def state(self) -> Json:
        if self.process is None:
            return {}
        if (code := self.process.poll()) is None:
            return {"running": {"startedAt": "2026-11-30T12:00:00Z"}}
        reason = "Error" if code else "Completed"
        code = 128 - code if code < 0 else code
        return {"terminated": {"exitCode": code, "reason": reason, "startedAt": "2026-11-30T12:00:00Z"}}

    def to_json(self) -> Json:
        state = self.state()
        phase = "Running" if "running" in state else "Pending"
        if "terminated" in state:
            phase = "Failed" if state["terminated"]["exitCode"] else "Succeeded"
        status: Json = {"phase": phase, "containerStatuses": [{"name": "csa", "state": state}] if state else []}
        if not state:
            message = "0/1 nodes are available: 1 Insufficient memory."
            why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            status["conditions"] = [why]
        metadata = {"name": self.name, "namespace": "agents", "labels": self.labels, "creationTimestamp": self._made_at}
        spec = {"containers": [{"name": "csa", "image": "i"}]}
        return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it as a kubelet does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Cluster:
    """The API server; pods have this home and environment."""

    def __init__(self, home: str, environ: dict[str, str]) -> None:
        self.home, self.environ = home, environ
        self.jobs: dict[str, Json] = {}
        self.pods: dict[str, Pod] = {}
        self.asked: list[str] = []
        self.is_full = False
        self.refusal: Json | None = None  # what is said to who creates a job
        self.denied: set[tuple[bytes, bytes]] = set()  # verbs, of which things
        cluster = self

        class Handler(_Handler):
            def __init__(self, *given: Any) -> None:
                self.cluster = cluster
                super().__init__(*given)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def kubeconfig(self) -> Json:
        server = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "agents"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }

    def create(self, job: Json) -> Json:
        name = job["metadata"]["name"]
        job["metadata"] |= {"namespace": "agents", "uid": name, "creationTimestamp": "2026-11-30T12:00:00Z"}
        job["status"] = {}
        self.jobs[name] = job
        pod = Pod(job, self.home, self.environ)
        self.pods[pod.name] = pod
        self.schedule()
        return job

    def schedule(self) -> None:
        """Start what waits, unless it is full."""
        for pod in self.pods.values():
            if not self.is_full and pod.process is None:
                pod.start()

    def replace(self, pod: Pod, meanwhile: Callable[[], object]) -> None:
        """Have it killed, and another one begun in its place, as a cluster may."""
        pod.end(signal.SIGKILL)
        meanwhile()
        (job,) = self.jobs.values()
        new = Pod(job, self.home, self.environ, "q4w8z")
        new.start()
        self.pods[new.name] = new

    def remove(self, pod: Pod) -> None:
        """End a pod, as `kubectl delete pod` and evictions do: its job has failed then, and makes no other."""
        pod.end()
        (job,) = self.jobs.values()
        job["status"] = {"failed": 1, "conditions": [{"type": kind, **_FAILED} for kind in ("FailureTarget", "Failed")]}
        del self.pods[pod.name]

    def delete(self, name: str) -> None:
        for pod in [each for each in self.pods.values() if each.labels["csa-order"] == name]:
            pod.end()
            del self.pods[pod.name]
        self.jobs.pop(name, None)

    def stop(self) -> None:
        for name in [*self.jobs]:
            self.delete(name)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def found(self, kind: str, query: dict[str, list[str]]) -> list[Json]:
        objects = [*self.jobs.values()] if kind == "jobs" else [pod.to_json() for pod in self.pods.values()]
        wanted = dict(each.split("=") for each in query.get("labelSelector", ()) if "=" in each)
        name = query.get("fieldSelector", [""])[0].partition("metadata.name=")[2]
        return [
            each
            for each in objects
            if wanted.items() <= each["metadata"]["labels"].items() and name in {"", each["metadata"]["name"]}
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.cluster.asked.append(f"GET {parts.path}")
        words, query = parts.path.strip("/").split("/"), parse_qs(parts.query)
        if words[-1] == "exec":
            self._exec(words[-2], query["command"])
        elif parts.path == "/api":
            self._say({"kind": "APIVersions", "versions": ["v1"]})
        elif parts.path == "/apis":
            version = {"groupVersion": "batch/v1", "version": "v1"}
            group = {"name": "batch", "versions": [version], "preferredVersion": version}
            self._say({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
        elif parts.path.startswith("/openapi/v3"):
            self._say(_OPENAPI if parts.path.endswith("/apis/batch/v1") else {"paths": {"apis/batch/v1": _SEE_OPENAPI}})
        elif parts.path in {"/api/v1", "/apis/batch/v1"}:
            self._say(_resources("pods" if parts.path == "/api/v1" else "jobs"))
        elif "namespaces" in words and words[-1] in _KINDS:
            kind, group_version, _ = _KINDS[words[-1]]
            items = self.cluster.found(words[-1], query)
            self._say({"kind": f"{kind}List", "apiVersion": group_version, "metadata": {}, "items": items})
        elif "namespaces" in words and words[-2] in _KINDS:
            found = self.cluster.found(words[-2], {"fieldSelector": [f"metadata.name={words[-1]}"]})
            self._say(found[0]) if found else self._missing(words)
        else:
            self._missing(words)

    def do_POST(self) -> None:
        body, cluster = self._body(), self.cluster
        if self.path.partition("?")[0] == f"/apis/{_REVIEW}/selfsubjectaccessreviews":  # in the binary form
            is_denied = any(verb in body and thing in body for verb, thing in cluster.denied)
            said = {"kind": "SelfSubjectAccessReview", "apiVersion": _REVIEW, "spec": {}}
            self._say({**said, "status": {"allowed": not is_denied}}, 201)
        elif cluster.refusal:
            self._say(cluster.refusal, cluster.refusal["code"])
        else:
            self._say(cluster.create(json.loads(body)), 201)

    def do_DELETE(self) -> None:
        self._body()
        words = urlsplit(self.path).path.strip("/").split("/")
        is_known = words[-1] in self.cluster.jobs
        self.cluster.delete(words[-1])
        self._say({"kind": "Status", "apiVersion": "v1", "status": "Success"}) if is_known else self._missing(words)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _missing(self, words: list[str]) -> None:
        message = f'{words[-2] if len(words) > 1 else ""} "{words[-1]}" not found'
        self._say(
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            | {"message": message},
            404,
        )

    def _say(self, said: Json, code: int = 200) -> None:
        body = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _exec(self, pod: str, command: list[str]) -> None:
        """Run a command in a pod, over a WebSocket, until it has ended."""
        running = [each for each in self.cluster.pods.values() if each.name == pod and "running" in each.state()]
        if not running:
            self._missing(["pods", pod])
            return
        digest = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + _GUID).encode()).digest()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        cluster, pipe = self.cluster, subprocess.PIPE
        child = subprocess.Popen(command, env=cluster.environ, cwd=cluster.home, stdin=pipe, stdout=pipe, stderr=pipe)
        sending = threading.Lock()
        outputs = [(_STDOUT, child.stdout), (_STDERR, child.stderr)]
        senders = [threading.Thread(target=self._send_all, args=(*each, sending)) for each in outputs]
        hearer = threading.Thread(target=self._hear, args=(child,))
        for thread in (*senders, hearer):
            thread.start()
        while child.poll() is None:
            if running[0].process and running[0].process.poll() is not None:
                child.kill()  # the container is gone, and all in it
            time.sleep(0.02)
        for thread in senders:
            thread.join()
        code = str(child.returncode)
        failure: Json = {"status": "Failure", "reason": "NonZeroExitCode", "message": f"exit code {code}"}
        causes = {"details": {"causes": [{"reason": "ExitCode", "message": code}]}}
        status: Json = {"status": "Success"} if code == "0" else failure | causes
        with suppress(OSError):
            self._send(_ERROR, json.dumps({"metadata": {}, **status}).encode(), sending)
            self.connection.sendall(b"\x88\x02\x03\xe8")
        hearer.join(2)
        for stream in (child.stdin, child.stdout, child.stderr):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _send_all(self, channel: int, stream: IO[bytes], sending: threading.Lock) -> None:
        with suppress(OSError):
            while block := os.read(stream.fileno(), 1 << 15):
                self._send(channel, block, sending)

    def _send(self, channel: int, block: bytes, sending: threading.Lock) -> None:
        length = len(block) + 1
        head = bytes([0x82, length]) if length < 126 else b"\x82\x7e" + struct.pack(">H", length)
        with sending:
            self.connection.sendall(head + bytes([channel]) + block)

    def _hear(self, child: subprocess.Popen[bytes]) -> None:
        """Pass what comes on to the command; its stdin ends when the client says so, or is gone."""
        assert child.stdin
        with suppress(OSError, ValueError, struct.error, IndexError):
            while True:
                first, second = self.rfile.read(2)
                length = second & 0x7F
                if length >= 126:
                    size = 2 if length == 126 else 8
                    length = int.from_bytes(self.rfile.read(size), "big")
                mask, block = self.rfile.read(4), self.rfile.read(length)
                data = bytes(each ^ mask[at % 4] for at, each in enumerate(block))
                if first & 0xF == 8:
                    break
                if first & 0xF == 2 and data[0] == _STDIN:
                    child.stdin.write(data[1:])
                    child.stdin.flush()
                elif first & 0xF == 2 and data[0] == _CLOSE:
                    child.stdin.close()
        with suppress(OSError):
            child.stdin.close()


def _resources(name: str) -> Json:
    kind, version, _ = _KINDS[name]
    singular = name.removesuffix("s")
    entry = {"name": name, "singularName": singular, "namespaced": True, "kind": kind, "verbs": _VERBS}
    more = [
        {"name": "pods/exec", "singularName": "", "namespaced": True, "kind": "PodExecOptions", "verbs": ["create"]}
    ]
    resources = [entry, *(more if name == "pods" else [])]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
