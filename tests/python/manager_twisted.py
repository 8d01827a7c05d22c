#!/usr/bin/python3
"""Drives a whole build with Twisted's XML-RPC client, as Launchpad's manager does: HTTP/1.0, Host without a port."""

import sys

from twisted.internet import defer, reactor, task
from twisted.web import client, resource, server, static, xmlrpc

import builds


class Files(resource.Resource):
    """Serves the build's input files by their sums, to this machine only."""

    def __init__(self, paths):
        super().__init__()
        for digest, path in paths.items():
            self.putChild(digest.encode(), static.File(path))
        self.port = reactor.listenTCP(0, server.Site(self), interface="127.0.0.1")

    def url(self, digest):
        return f"http://127.0.0.1:{self.port.getHost().port}/{digest}"


def pause(seconds):
    return task.deferLater(reactor, seconds, lambda: None)


@defer.inlineCallbacks
def until_idle(proxy, deadline):
    while reactor.seconds() < deadline:
        try:
            status = yield proxy.callRemote("status")
            if status["builder_status"] == "BuilderStatus.IDLE":
                return
        except xmlrpc.Fault:
            pass  # between boots
        yield pause(0.2)
    raise RuntimeError("the builder did not say IDLE in time")


@defer.inlineCallbacks
def fetch(options, name):
    agent = client.Agent(reactor, connectTimeout=30)
    answer = yield agent.request(b"GET", f"{options.builder}/filecache/{name}".encode())
    if answer.code != 200:
        raise RuntimeError(f"filecache/{name} answered {answer.code}")
    data = yield client.readBody(answer)
    return data


@defer.inlineCallbacks
def ensure(proxy, files, digest):
    present, info = yield proxy.callRemote("ensurepresent", digest, files.url(digest), "", "")
    if not present:
        raise RuntimeError(f"ensurepresent of {digest}: {info}")


@defer.inlineCallbacks
def drive(options):
    deadline = reactor.seconds() + options.timeout
    build = builds.Build(options)
    files = Files(build.paths)
    proxy = xmlrpc.Proxy((options.builder + "/rpc").encode(), allowNone=True, connectTimeout=30.0)

    yield until_idle(proxy, deadline)
    echoed = yield proxy.callRemote("echo", "ping", [1, None])
    if echoed != ["ping", [1, None]]:
        raise RuntimeError("echo changed what it was given")
    yield defer.gatherResults([ensure(proxy, files, digest) for digest in build.paths], consumeErrors=True)
    answer = yield proxy.callRemote("build", *build.call())
    if answer != ["BuilderStatus.BUILDING", options.build_id]:
        raise RuntimeError(f"build answered {answer!r}")

    aborted = False
    while True:
        if reactor.seconds() > deadline:
            raise RuntimeError("the build took longer than --timeout")
        status = yield proxy.callRemote("status")
        if status["build_id"] != options.build_id:
            raise RuntimeError(f"the builder works on {status['build_id']!r}")
        if status["builder_status"] == "BuilderStatus.WAITING":
            break
        tail = bytes(status["logtail"].data) if "logtail" in status else b""
        if options.abort_at and not aborted and options.abort_at.encode() in tail:
            yield proxy.callRemote("abort")
            aborted = True
        yield pause(0.2)

    log = yield fetch(options, "buildlog")
    build.save("buildlog", log)
    for name, digest in status.get("filemap", {}).items():
        data = yield fetch(options, digest)
        build.save(name, data, digest)
    yield proxy.callRemote("clean")
    yield until_idle(proxy, deadline)
    builds.report(build_status=status["build_status"], build_id=status["build_id"],
                  files=sorted(status.get("filemap", {})), dependencies=status.get("dependencies"))


def main():
    options = builds.parser(__doc__).parse_args()
    failures = []
    done = defer.maybeDeferred(drive, options)
    done.addErrback(failures.append)
    done.addBoth(lambda _: reactor.stop())
    reactor.run()
    for failure in failures:
        sys.exit(f"{failure.type.__name__}: {failure.getErrorMessage()}")


if __name__ == "__main__":
    main()
