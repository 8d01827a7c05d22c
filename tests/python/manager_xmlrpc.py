#!/usr/bin/python3
"""Drives a whole build with Python's own XML-RPC client: HTTP/1.1, keep-alive, maybe gzip."""

import concurrent.futures
import http.server
import os
import threading
import time
import urllib.request
import xmlrpc.client

import builds


class Files(http.server.ThreadingHTTPServer):
    """Serves the build's input files by their sums, to this machine only."""

    def __init__(self, paths):
        self.paths = paths
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, digest):
        return f"http://127.0.0.1:{self.server_address[1]}/{digest}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.server.paths.get(self.path.lstrip("/"))
        if path is None:
            self.send_error(404)
            return
        with open(path, "rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.wfile.write(file.read())

    def log_message(self, *_):
        pass


def proxy(options):
    return xmlrpc.client.ServerProxy(options.builder + "/rpc", allow_none=True)


def until(deadline, what, step):
    """Calls `step` until it answers something; Faults count as not yet."""
    last = None
    while time.monotonic() < deadline:
        try:
            answer = step()
            if answer is not None:
                return answer
        except xmlrpc.client.Fault as fault:
            last = fault.faultString
        time.sleep(0.2)
    raise SystemExit(f"gave up waiting {what}; the last fault was {last!r}")


def ensure(options, files, digest):
    present, info = proxy(options).ensurepresent(digest, files.url(digest), "", "")
    if not present:
        raise SystemExit(f"ensurepresent of {digest}: {info}")


def fetch(options, name):
    with urllib.request.urlopen(f"{options.builder}/filecache/{name}", timeout=60) as answer:
        data = answer.read()
        if answer.headers.get("Content-Length") != str(len(data)):
            raise SystemExit(f"{name}: the length that was promised did not come")
        return data


def main():
    parser = builds.parser(__doc__)
    parser.add_argument("--stop-at", metavar="TEXT",
                        help="leave, with the build running, as soon as the log's tail holds TEXT")
    parser.add_argument("--follow", action="store_true",
                        help="the build was dispatched already: only follow it to its end")
    parser.add_argument("--keep", action="store_true", help="leave the finished build uncleaned")
    options = parser.parse_args()
    deadline = time.monotonic() + options.timeout
    build = builds.Build(options)
    files = Files(build.paths)
    server = proxy(options)

    if not options.follow:
        dispatch(options, build, files, server, deadline)
    follow(options, build, server, deadline)


def dispatch(options, build, files, server, deadline):
    """From an idle builder to an accepted build."""
    until(deadline, "for an idle builder",
          lambda: server.status()["builder_status"] == "BuilderStatus.IDLE" or None)
    if server.echo("ping", [1, None]) != ["ping", [1, None]]:
        raise SystemExit("echo changed what it was given")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda digest: ensure(options, files, digest), build.paths))
    answer = server.build(*build.call())
    if answer != ["BuilderStatus.BUILDING", options.build_id]:
        raise SystemExit(f"build answered {answer!r}")


def follow(options, build, server, deadline):
    """From an accepted build to an idle builder."""
    aborted = False
    while True:
        if time.monotonic() > deadline:
            raise SystemExit("the build took longer than --timeout")
        status = until(deadline, "for a status", server.status)
        if status["build_id"] != options.build_id:
            raise SystemExit(f"the builder works on {status['build_id']!r}")
        if status["builder_status"] == "BuilderStatus.WAITING":
            break
        tail = bytes(status["logtail"].data) if "logtail" in status else b""
        if options.stop_at and options.stop_at.encode() in tail:
            builds.report(stopped=True)
            return
        if options.abort_at and not aborted and options.abort_at.encode() in tail:
            if server.abort() != "BuilderStatus.ABORTING":
                raise SystemExit("abort did not answer ABORTING")
            aborted = True
        time.sleep(0.2)

    if status["build_status"] != "BuildStatus.BUILDERFAIL":
        build.save("buildlog", fetch(options, "buildlog"))
    for name, digest in status.get("filemap", {}).items():
        build.save(name, fetch(options, digest), digest)
    if not options.keep:
        until(deadline, "for clean to be answered", lambda: server.clean())
        until(deadline, "to be told IDLE after clean",
              lambda: server.status()["builder_status"] == "BuilderStatus.IDLE" or None)
    builds.report(build_status=status["build_status"], build_id=status["build_id"],
                  files=sorted(status.get("filemap", {})), dependencies=status.get("dependencies"))


if __name__ == "__main__":
    main()
