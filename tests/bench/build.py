"""The release binary."""

import json
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build(*features):
    """Builds it, with Cargo features in a directory of its own; returns its path."""
    command = ["cargo", "build", "--release", "--locked", "--bin", "eci"]
    if features:
        # A release is never overwritten by a build that has more in it.
        command += ["--features", ",".join(features), "--target-dir", os.path.join(ROOT, "target", "-".join(features))]
    command.append("--message-format=json-render-diagnostics")
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    messages = map(json.loads, built.stdout.splitlines())
    return next(path for message in messages if (path := message.get("executable")))
