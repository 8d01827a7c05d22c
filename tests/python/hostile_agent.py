#!/usr/bin/python3
"""A board's agent that turns hostile with its first build, as one does whose build is root and means harm.

It boots as an honest one does: listens with its boot's certificate, reports to the depot, says IDLE. When a build
comes it reads what to do from `STATE/modes/SLOT`; without that file it stays honest. The names of the modes are
those of `misbehave` and `status` below.
"""

import hashlib
import http.client
import http.server
import json
import os
import re
import ssl
import sys
import time
import tomllib

SECRET = "deb http://user:hunter2@private.example/ x main"


def option(name):
    return sys.argv[sys.argv.index(name) + 1]


ROOT, SCRATCH = option("--root"), option("--scratch")
BOOT = tomllib.load(open(ROOT + "/boot.toml", "rb"))
ARCH = tomllib.load(open(ROOT + "/agent.toml", "rb"))["arch"]
MODES = os.path.join(SCRATCH, "../../../../modes")
RESULT = b"what was built in boot " + BOOT["boot"].encode()
LOG = (SECRET + "\nlast line\n").encode()


class Board:
    mode = "idle"
    build = None
    asked = 0
    aborted = False


def value(item):
    if isinstance(item, bool):
        return f"<value><boolean>{item:d}</boolean></value>"
    if isinstance(item, str):
        return f"<value><string>{item}</string></value>"
    if isinstance(item, dict):
        members = "".join(f"<member><name>{name}</name>{value(item[name])}</member>" for name in item)
        return f"<value><struct>{members}</struct></value>"
    return "<value><array><data>" + "".join(map(value, item)) + "</data></array></value>"


def answer(item):
    return f"<methodResponse><params><param>{value(item)}</param></params></methodResponse>".encode()


def fault(text):
    code = "<member><name>faultCode</name><value><int>1</int></value></member>"
    text = f"<member><name>faultString</name>{value(text)}</member>"
    return f"<methodResponse><fault><value><struct>{code}{text}</struct></value></fault></methodResponse>".encode()


def builder(status, **fields):
    return answer({"builder_status": "BuilderStatus." + status, **fields})


def waiting(files, status="OK"):
    return builder("WAITING", build_id=Board.build, build_status="BuildStatus." + status, filemap=files, dependencies="")


def status():
    mode, build = Board.mode, Board.build
    if build is None:
        return builder("IDLE")
    Board.asked += 1
    if Board.asked < 2 or (mode.startswith("abort") and not Board.aborted) or mode == "abort-unheard":
        return builder("BUILDING", build_id=build, logtail="tail")
    if mode == "another-build":
        return builder("BUILDING", build_id="PACKAGEBUILD-666", logtail="")
    if mode == "forgets":
        return builder("IDLE")
    if mode == "nested":
        return b"<methodResponse><params><param>" + b"<value><array><data>" * 30_000
    if mode == "entities":
        return b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaaaaaaaa">]>' + builder("IDLE").replace(b"IDLE", b"&a;" * 1000)
    if mode == "names":
        return waiting({"../../../evil": hashlib.sha1(RESULT).hexdigest()})
    # An abort that was taken, and a build that claims to have ended well all the same.
    return waiting({"result.deb": hashlib.sha1(RESULT).hexdigest()})


def report():
    return json.dumps({
        "boot": BOOT["boot"], "image": BOOT["image"], "uptime_ms": 1, "clock_unix_ms": int(time.time() * 1000),
        "agent": "hostile 1", "arch": ARCH, "build_types": ["binarypackage"],
    }).encode()


class Link(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, body, code=200, **headers):
        self.send_response(code)
        for name in headers:
            self.send_header(name.replace("_", "-"), headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/boot":
            return self.say(report())
        if not self.path.endswith("/buildlog"):
            return self.say(b"something else" if Board.mode == "another-file" else RESULT)
        first = int(re.match(r"bytes=(\d+)-", self.headers["Range"])[1])
        if Board.mode == "another-range":
            return self.say(LOG, 206, Content_Range="bytes 5-9/10")
        part = LOG[first:first + 7]  # so that the secret comes in pieces
        if not part:
            return self.say(b"", 416)
        self.say(part, 206, Content_Range=f"bytes {first}-{first + len(part) - 1}/*")

    def do_POST(self):
        call = self.rfile.read(int(self.headers["Content-Length"])).decode()
        method = re.search(r"<methodName>(\w+)", call)[1]
        if method == "ensurepresent":
            return self.say(answer([True, "Cache"]))
        if method == "build":
            try:
                Board.mode = open(os.path.join(MODES, BOOT["slot"])).read()
            except FileNotFoundError:
                Board.mode = "honest"
            Board.build = re.search(r"<string>([^<]*)", call)[1]
            return self.say(answer(["BuilderStatus.BUILDING", Board.build]))
        if method == "abort":
            Board.aborted = True
            return self.say(fault(SECRET) if Board.mode == "abort-unheard" else answer("BuilderStatus.ABORTING"))
        if Board.mode == "giant" and Board.asked:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            while True:
                self.wfile.write(b" " * (1 << 20))
        self.say(status())

    def log_message(self, *_):
        pass


def contexts():
    """The link's, and the depot's: both with the certificate of this boot."""
    certificate, key = os.path.join(ROOT, "certificate"), os.path.join(ROOT, "key")
    open(certificate, "w").write(BOOT["link"]["certificate"])
    open(key, "w").write(BOOT["link"]["key"])
    for protocol in ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(certificate, key)
        yield context


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


def main():
    to_listen, to_report = contexts()
    address, port = BOOT["link"]["listen"].rsplit(":", 1)
    server = Server((address, int(port)), Link)
    server.socket = to_listen.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    depot = http.client.HTTPSConnection(BOOT["link"]["depot"], context=to_report, timeout=10)
    depot.request("POST", "/report", report())
    print("\x1b[2J" + SECRET, depot.getresponse().status, flush=True)
    server.serve_forever()


main()
