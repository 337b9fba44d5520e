"""What cargo says about the packages of this project."""

import json
import pathlib
import subprocess

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = "x86_64-unknown-linux-gnu"


def cargo(*args, manifest=TOP / "Cargo.toml"):
    """What `cargo ARGS` prints. Nothing is fetched that the lock file does not name."""
    command = ["cargo", *args, "--locked", "--manifest-path", str(manifest)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def metadata(manifest=TOP / "Cargo.toml"):
    """`cargo metadata`: every package that some build for TARGET may need."""
    out = cargo("metadata", "--format-version=1", "--all-features",
                f"--filter-platform={TARGET}", manifest=manifest)
    return json.loads(out)


def tree(program):
    """The packages that are linked into a program of the workspace, and what each
    needs: {(name, version): (features, {(name, version)})}. Features and target
    are those of the release build; what only runs while it is built is left out."""
    out = cargo("tree", "--package", program, "--edges=normal,no-proc-macro",
                f"--target={TARGET}", "--prefix=depth", "--format=|{p}|{f}", "--no-dedupe")
    found, path = {}, []
    for line in out.splitlines():
        depth, package, features = line.split("|")
        name, version = package.split()[:2]
        key = (name, version.removeprefix("v"))
        _, needs = found.setdefault(key, (sorted(filter(None, features.split(","))), set()))
        del path[int(depth):]
        if path:
            found[path[-1]][1].add(key)
        path.append(key)
    return found
