#!/usr/bin/python3
"""A Launchpad worker of another make, as an image may name one: plain HTTP on the board's loopback, builds of type
`snap` and `sourcepackagerecipe`, with what the standard library has.

It says what it is told to in `DIRECTORY/SLOT` (the board's host name is the slot's): an honest build's words, or how
it misbehaves. `DIRECTORY/extra.xml` holds the members that it adds to its status. Its results are the call as it came
and its inputs as it fetched them.
"""

import hashlib
import http.server
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
import xmlrpc.client

DIRECTORY = sys.argv[1]
HOST, PORT = os.environ["PANDA_WORKER_ADDRESS"].rsplit(":", 1)
TYPES = ["snap", "sourcepackagerecipe"]
GATE = threading.Event()


def told(name, default=""):
    try:
        with open(os.path.join(DIRECTORY, name)) as file:
            return file.read().strip()
    except FileNotFoundError:
        return default


def once(name):
    """Whether this has not happened on an earlier boot."""
    path = os.path.join(DIRECTORY, socket.gethostname() + "." + name)
    if os.path.exists(path):
        return False
    open(path, "w").close()
    return True


class Build:
    state = "IDLE"
    id = mode = None
    outcome = "OK"
    files = {}
    results = {}
    dependencies = ""
    args = {}
    log = b""


def add(name, content):
    digest = hashlib.sha1(content).hexdigest()
    Build.results[name] = digest
    Build.files[digest] = content


def run(call):
    Build.log += ("begins %s\nsecret http://user:hunter2@private.example/\n" % Build.id).encode()
    mode = Build.mode
    if mode in ("slow", "deaf", "wedges", "dies", "stops"):
        Build.log += b"goes on\n"
        if mode == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        GATE.wait()
        # Aborted.
        Build.log += b"aborted\n"
        if mode != "deaf":
            Build.outcome, Build.results, Build.state = "ABORTED", {}, "WAITING"
        return
    add("call.xml", call)
    for name, digest in Build.inputs.items():
        add(name, Build.files[digest])
    Build.log += b"ends\n"
    if mode in ("PACKAGEFAIL", "DEPFAIL", "CHROOTFAIL", "GIVENBACK", "BUILDERFAIL", "ABORTED"):
        Build.outcome = mode
    if mode == "DEPFAIL":
        Build.dependencies = "libfoo-dev (>= 1)"
    if mode == "ghost":
        Build.results["ghost"] = "0" * 40
    if mode == "many":
        Build.results = {str(n): "0" * 40 for n in range(20_000)}
    for name in {"climbs": ["../../../evil"], "path": ["/etc/evil"], "empty": [""], "lines": ["a\nb"],
                 "odd": ["\u00e9 <&> %2e%2e", "a" * 255, "-rf", "..."]}.get(mode, []):
        add(name, b"odd")
    Build.state = "WAITING"


def value(item):
    text = xmlrpc.client.dumps((item,), methodresponse=True, allow_none=True)
    return text[text.index("<value>"):text.rindex("</param>")]


def status():
    fields = {"builder_status": "BuilderStatus." + Build.state, "builder_version": "foreign 1"}
    if Build.state != "IDLE":
        fields["build_id"] = "SNAPBUILD-666" if Build.mode == "another-build" else Build.id
    if Build.state == "BUILDING":
        fields["logtail"] = xmlrpc.client.Binary(Build.log[-2048:])
    if Build.state == "WAITING":
        fields["build_status"] = "BuildStatus." + Build.outcome
        if Build.outcome in ("OK", "PACKAGEFAIL", "DEPFAIL"):
            fields["filemap"] = Build.results
            fields["dependencies"] = Build.dependencies
    text = value(fields)
    end = text.rindex("</struct>")
    extra = told("extra.xml") if Build.state != "IDLE" else ""
    if Build.mode == "talks":
        extra = "<member><name>much</name><value><string>%s</string></value></member>" % ("x" * (1 << 20))
    if Build.mode == "twice":
        extra = "<member><name>build_id</name><value><string>x</string></value></member>"
    return text[:end] + extra + text[end:]


def call(method, params, document):
    if Build.mode == "wedges" and Build.state != "IDLE":
        threading.Event().wait()
    if method == "status":
        return status()
    if method == "info":
        return value(["1.0", told("arch"), TYPES + ["unannounced"]])
    if method == "echo":
        return value(list(params))
    if method == "ensurepresent":
        digest, url, username, password = params
        if url and digest not in Build.files:
            with urllib.request.urlopen(url) as answer:
                content = answer.read()
            if hashlib.sha1(content).hexdigest() != digest:
                return value([False, "Digests did not match, removing again!"])
            Build.files[digest] = content
        return value([digest in Build.files, "Download"])
    if method == "build":
        Build.mode = told(socket.gethostname(), "honest")
        if Build.mode == "dies-at-build" and once("died"):
            os.kill(os.getpid(), signal.SIGKILL)
        if Build.mode == "hangs-at-build" and once("hung"):
            threading.Event().wait()
        if Build.mode == "refuses" and once("refused"):
            raise xmlrpc.client.Fault(8002, "not today")
        Build.id, build_type, Build.chroot, Build.inputs, Build.args = params
        if build_type not in TYPES:
            return value(["BuilderStatus.UNKNOWNBUILDER", "%s not in %r" % (build_type, TYPES)])
        Build.state = "BUILDING"
        threading.Thread(target=run, args=(document,), daemon=True).start()
        return value(["BuilderStatus.BUILDING", Build.id])
    if method == "abort":
        Build.state = "ABORTING"
        GATE.set()
        return value("BuilderStatus.ABORTING")
    if method == "proxy_info" and "revocation_endpoint" in Build.args:
        return value({"use_fetch_service": bool(Build.args.get("use_fetch_service")),
                      "revocation_endpoint": Build.args["revocation_endpoint"]})
    raise xmlrpc.client.Fault(8001 if method != "proxy_info" else 8002, "error")


class Worker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, content, code=200, **headers):
        self.send_response(code)
        for name in headers:
            self.send_header(name.replace("_", "-"), headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        document = self.rfile.read(int(self.headers["Content-Length"]))
        params, method = xmlrpc.client.loads(document)
        try:
            answer = "<methodResponse><params><param>%s</param></params></methodResponse>" % call(method, params, document)
        except xmlrpc.client.Fault as fault:
            answer = xmlrpc.client.dumps(fault)
        self.say(answer.encode(), Content_Type="text/xml")

    def do_GET(self):
        name = self.path.removeprefix("/filecache/")
        if name != "buildlog":
            if Build.mode == "stalls":
                once("stalled")
                threading.Event().wait()
            content = Build.files.get(name)
            return self.say(b"", 404) if content is None else self.say(content)
        if Build.mode == "wedges":
            threading.Event().wait()
        first = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        part = Build.log[first:]
        if not part:
            return self.say(b"", 416)
        self.say(part, 206, Content_Range=f"bytes {first}-{first + len(part) - 1}/*")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass


Server((HOST, int(PORT)), Worker).serve_forever()
