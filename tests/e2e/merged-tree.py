#!/usr/bin/env python3
"""Compares what podman and drupe make of the layers of one image.

    merged-tree.py DRUPE WORK

Makes an image of 60 layers in WORK, an empty directory, gives it to both, mounts
what each of them made, and compares every entry. Wants root and a mount
namespace of its own: it cleans up nothing.
"""

import hashlib
import io
import json
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile

LAYERS = 60
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # net_raw, effective


class History:
    """A file system that changes layer by layer; only names and kinds."""

    def __init__(self):
        self.random = random.Random(7)
        self.kinds = {"": "d"}

    def paths(self, kind):
        return sorted(p for p, k in self.kinds.items() if k == kind)

    def layer(self, number):
        entries = {}  # path -> TarInfo and data; parents come first when sorted
        time = 1_600_000_000 + number

        def put(path, kind, mode, data=b"", link="", device=(0, 0), capability=False):
            info = tarfile.TarInfo(path)
            info.type = kind
            info.mode = mode
            info.uid, info.gid = self.random.choice([(0, 0), (1000, 100), (100000, 3000000)])
            info.mtime = time + self.random.randrange(10**9) / 10**9
            info.linkname = link
            info.size = len(data)
            info.devmajor, info.devminor = device
            info.pax_headers = {"mtime": f"{time}.{self.random.randrange(10**9):09}"}
            if capability:
                value = CAPABILITY.decode("utf-8", "surrogateescape")
                info.pax_headers["SCHILY.xattr.security.capability"] = value
            parent = os.path.dirname(path)
            # As builders write layers: with every directory on the way.
            if parent and parent not in entries:
                put(parent, tarfile.DIRTYPE, self.random.choice([0o755, 0o1777, 0o2750]))
            entries[path] = (info, data)

        def whiteout(path):
            put(os.path.join(os.path.dirname(path), ".wh." + os.path.basename(path)),
                tarfile.REGTYPE, 0)
            self.forget(path)

        fresh = set()
        for i in range(self.random.randrange(3, 15)):
            directory = self.random.choice(self.paths("d"))
            path = f"{directory}/n{number}-{i}" if directory else f"n{number}-{i}"
            if len(path) > 60:
                continue
            fresh.add(path)
            kind = self.random.choice("ddfffffslhpc")
            if kind == "d":
                put(path, tarfile.DIRTYPE, self.random.choice([0o755, 0o700, 0o2775]))
            elif kind == "f":
                size = self.random.choice([0, 1, 2048, 2049, 4096, 70000])
                put(path, tarfile.REGTYPE, self.random.choice([0o644, 0o4755, 0o600]),
                    self.random.randbytes(size), capability=self.random.random() < 0.2)
            elif kind == "s":
                put(path, tarfile.SYMTYPE, 0o777, link=self.random.choice(["/etc/x", "../y" * 40]))
            elif kind == "l":
                put(path + "-long-" + "x" * 150, tarfile.REGTYPE, 0o644, b"long")
                path += "-long-" + "x" * 150
                kind = "f"
            elif kind == "h":
                put(path + "a", tarfile.REGTYPE, 0o644, b"linked %d" % number)
                put(path + "b", tarfile.LNKTYPE, 0o644, link=path + "a")
                self.kinds[path + "a"] = self.kinds[path + "b"] = "f"
                fresh |= {path + "a", path + "b"}
                continue
            elif kind == "p":
                put(path, tarfile.FIFOTYPE, 0o620)
            else:
                put(path, tarfile.CHRTYPE, 0o666, device=(1, 3 + i))
            self.kinds[path] = kind
            fresh.add(path)

        def old(kind):
            inside = lambda p: any(f == p or f.startswith(p + "/") for f in entries)
            return [p for p in self.paths(kind) if p and p not in fresh and not inside(p)]

        for kind, change in [("f", "rm"), ("f", "dir"), ("d", "rm"), ("d", "opaque"), ("d", "file"),
                             ("f", "rewrite"), ("d", "chmod")]:
            choice = old(kind)
            if not choice or self.random.random() < 0.4:
                continue
            path = self.random.choice(choice)
            if change == "rm":
                whiteout(path)
            elif change == "dir":
                put(path, tarfile.DIRTYPE, 0o711)
                put(path + "/in", tarfile.REGTYPE, 0o644, b"in")
                self.kinds[path], self.kinds[path + "/in"] = "d", "f"
                fresh |= {path, path + "/in"}
            elif change == "opaque":
                self.forget(path)
                put(path, tarfile.DIRTYPE, 0o750)
                put(path + "/.wh..wh..opq", tarfile.REGTYPE, 0)
                put(path + "/only", tarfile.REGTYPE, 0o644, b"only")
                self.kinds[path], self.kinds[path + "/only"] = "d", "f"
                fresh |= {path, path + "/only"}
            elif change == "file":
                self.forget(path)
                put(path, tarfile.REGTYPE, 0o644, b"was a directory")
                self.kinds[path] = "f"
                fresh.add(path)
            elif change == "rewrite":
                put(path, tarfile.REGTYPE, 0o640, b"again")
            else:
                put(path, tarfile.DIRTYPE, 0o3770)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            # A hard link follows what it is another name of.
            for path in sorted(entries, key=lambda p: (entries[p][0].type == tarfile.LNKTYPE, p)):
                info, data = entries[path]
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def forget(self, path):
        for known in list(self.kinds):
            if known == path or known.startswith(path + "/"):
                del self.kinds[known]


def archive(path):
    history = History()
    layers = [history.layer(n) for n in range(LAYERS)]
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers",
                   "diff_ids": ["sha256:" + hashlib.sha256(l).hexdigest() for l in layers]},
    }).encode()
    names = [f"{n}.tar" for n in range(LAYERS)]
    manifest = [{"Config": "config.json", "RepoTags": ["localhost/merged:1"], "Layers": names}]
    with tarfile.open(path, "w") as tar:
        files = [("config.json", config), ("manifest.json", json.dumps(manifest).encode())]
        for name, data in [*zip(names, layers), *files]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def listing(root):
    """What a program sees: each path with all that belongs to it."""
    seen, links = {}, {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            row = [oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns]
            row.append(sorted((x, os.getxattr(path, x, follow_symlinks=False))
                              for x in os.listxattr(path, follow_symlinks=False)
                              if x != "security.selinux"))
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    row.append(hashlib.sha256(file.read()).hexdigest())
            elif kind == stat.S_IFLNK:
                row.append(os.readlink(path))
            elif kind == stat.S_IFCHR:
                row.append(info.st_rdev)
            relative = os.path.relpath(path, root)
            if kind == stat.S_IFREG and info.st_nlink > 1:
                links.setdefault(info.st_ino, []).append(relative)
            seen[relative] = row
    for group in links.values():
        for path in group:
            seen[path].append(sorted(group))
    return seen


def run(*words, **more):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def by_podman(work):
    podman = ["podman", "--root", f"{work}/podman", "--runroot", f"{work}/run",
              "--storage-driver", "overlay"]
    run(*podman, "load", "-q", "-i", f"{work}/image.tar")
    return run(*podman, "image", "mount", "localhost/merged:1").strip()


def by_drupe(drupe, work):
    env = {**os.environ, "DRUPE_HOME": f"{work}/drupe"}
    run(drupe, "load", "-q", "-i", f"{work}/image.tar", env=env)
    image = json.loads(run(drupe, "image", "inspect", "merged:1", env=env))[0]
    lower = []
    for number, layer in enumerate(image["DiskImages"]):
        # A mount takes a page of options.
        mounted = f"{work}/l/{number}"
        os.makedirs(mounted)
        run("mount", "-t", "erofs", "-o", "ro,loop", layer, mounted)
        lower.insert(0, str(number))
    os.makedirs(f"{work}/merged")
    options = "ro,lowerdir=" + ":".join(lower)
    run("mount", "-t", "overlay", "overlay", "-o", options, f"{work}/merged", cwd=f"{work}/l")
    return f"{work}/merged"


def main():
    drupe, work = sys.argv[1:]
    run("mount", "-t", "tmpfs", "tmpfs", work)
    archive(f"{work}/image.tar")
    expected, found = listing(by_podman(work)), listing(by_drupe(drupe, work))
    differ = [p for p in sorted(expected.keys() | found.keys()) if expected.get(p) != found.get(p)]
    for path in differ[:20]:
        print(f"{path}\n  podman: {expected.get(path)}\n  drupe:  {found.get(path)}")
    print(f"entries: {len(expected)}")
    print(f"differences: {len(differ)}")


main()
