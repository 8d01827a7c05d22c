"""What both managers beside this file share: the command line, the files of a build, and its arguments.

A manager here does what Launchpad's does with one build: status, ensurepresent for every file at once, build,
status until it waits, abort where it is asked to, the log and the results (checked), clean, status until idle.
It prints one JSON object about the build as its last line.
"""

import argparse
import hashlib
import json
import os
import sys


def parser(description):
    """The command line that every manager has; one may add to it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--builder", required=True, help="the builder's URL, without /rpc")
    parser.add_argument("--chroot", required=True, help="the chroot tarball")
    parser.add_argument("--dsc", required=True, help="the source package's .dsc; its files lie beside it")
    parser.add_argument("--output", required=True, help="directory for the results")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--arch", default="amd64")
    parser.add_argument("--archive", action="append", default=[], help="an archive line; may be repeated")
    parser.add_argument("--build-id", default="PACKAGEBUILD-1")
    parser.add_argument("--abort-at", metavar="TEXT", help="abort as soon as the log's tail holds TEXT")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for the whole build")
    return parser


def sha1(path):
    """A file's SHA-1, as hexadecimal digits."""
    digest = hashlib.sha1()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def source_files(dsc):
    """The paths of a .dsc and of all that its Files field names."""
    paths = [dsc]
    in_files = False
    with open(dsc, encoding="utf-8") as file:
        for line in file:
            if line.startswith("Files:"):
                in_files = True
            elif in_files and line.startswith(" ") and len(line.split()) == 3:
                paths.append(os.path.join(os.path.dirname(dsc), line.split()[2]))
            else:
                in_files = False
    return paths


class Build:
    """One build: its files by sum, and the arguments of the calls."""

    def __init__(self, options):
        self.options = options
        self.paths = {}
        self.chroot = self.add(options.chroot)
        self.filemap = {os.path.basename(p): self.add(p) for p in source_files(options.dsc)}

    def add(self, path):
        """Takes a file into those that are served, by its sum."""
        digest = sha1(path)
        self.paths[digest] = path
        return digest

    def call(self):
        """The arguments of `build`, as Launchpad's manager sends them."""
        options = self.options
        extra = {
            "series": options.suite.split("-")[0],
            "suite": options.suite,
            "arch_tag": options.arch,
            "arch_indep": True,
            "archive_purpose": "PPA",
            "ogrecomponent": "main",
            "archives": options.archive,
            "trusted_keys": [],
            "archive_private": False,
            "build_debug_symbols": False,
            "image_type": "chroot",
            "fast_cleanup": True,
            "builder_constraints": [],
            "build_url": "https://launchpad.test/~user/+archive/ppa/+build/1",
            "launchpad_instance": "devel",
            "launchpad_server_url": "launchpad.test",
        }
        return [options.build_id, "binarypackage", self.chroot, self.filemap, extra]

    def save(self, name, data, digest=None):
        """Keeps a fetched file, checked against its sum; a name with a path in it is refused."""
        if name in ("", ".", "..") or "/" in name:
            raise SystemExit(f"the builder names a file {name!r}")
        if digest is not None and hashlib.sha1(data).hexdigest() != digest:
            raise SystemExit(f"{name} is not what its sum says")
        os.makedirs(self.options.output, exist_ok=True)
        with open(os.path.join(self.options.output, name), "wb") as file:
            file.write(data)


def report(**fields):
    """The last line: what became of the build."""
    print(json.dumps(fields, sort_keys=True))
    sys.stdout.flush()
