"""Browser: the Chromium that screenshots and browser tests use, found or installed: `python -m docs.browser`.

The command does nothing where a browser is found. Otherwise it installs one: as root on Debian and its like the
system's own package, elsewhere the one that Playwright brings. Where neither succeeds it says so and goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""What it is started with: root may start it, and it asks nobody for anything."""

PACKAGES = ("chromium", "fonts-dejavu-core")


def found() -> str | None:
    """The path of a browser: of `GKT_CHROMIUM`, of the system's, of Playwright's; None where there is none."""
    named = os.environ.get("GKT_CHROMIUM")
    candidates = [named] if named else [shutil.which(name) for name in NAMES]
    lies = next((path for path in candidates if path and Path(path).exists()), None)
    return lies if lies or named else _of_playwright()


def _of_playwright() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as play:
        path = play.chromium.executable_path
    return path if Path(path).exists() else None


def _ways() -> Iterator[Sequence[Sequence[str]]]:
    """Ways to install one, each as commands that must all succeed."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = ("apt-get", "-qq")
        yield [(*quiet, "update"), (*quiet, "install", "-y", "--no-install-recommends", *PACKAGES)]
    yield [(sys.executable, "-m", "playwright", "install", "chromium")]


def install() -> str | None:
    """Install one where none is found; its path, None where that did not succeed."""
    if path := found():
        return path
    for commands in _ways():
        print("No browser for the dashboard's tests yet:", "; ".join(" ".join(each) for each in commands), flush=True)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = all(subprocess.run(each, env=environ, check=False).returncode == 0 for each in commands)  # noqa: S603 - commands of ours
        if done and (path := found()):
            return path
    return None


if __name__ == "__main__":
    if install() is None:
        print("No browser could be installed: the dashboard's tests in a browser will be skipped (see GKT_CHROMIUM).")
