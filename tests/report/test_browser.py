"""The page in a real browser: it opens from a file, shows its rows, runs nothing and is no wider than its window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import planted_study as planted
import pytest

from veriscope.report import write

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)"),
]


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """What Chromium makes of a page, and what it logs about it."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


def test_the_page_opens_and_holds_every_claim(tmp_path: Path) -> None:
    study = planted.study(planted.SUPPORTED, planted.REFUTED, planted.INCONCLUSIVE, planted.INVALID)
    page = write(study, tmp_path / "report.html")

    dom, log = browse(page, tmp_path / "profile", "--dump-dom")

    assert re.search(r"<h1><bdi>3 of 4 claims not supported, 1 supported</bdi></h1>", dom)
    assert len(re.findall(r"<h2>", dom)) == 5
    assert dom.count('data-figure="forest"') >= 4
    assert "CONSOLE" not in log, log


def test_hostile_text_runs_nothing_and_keeps_the_page_narrow(tmp_path: Path) -> None:
    study = planted.study(planted.HOSTILE_VERDICT, planted.SUPPORTED, told=planted.HOSTILE)
    page = write(study, tmp_path / "report.html")
    # The page allows no script, so a frame around it measures how wide it would like to be.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.name}" width="400" height="900"></iframe><script>onload = () => {{'
        "const d = document.getElementById('f').contentDocument.documentElement;"
        "const images = d.querySelectorAll('img,script').length;"
        "document.title = `wide ${d.scrollWidth} of ${d.clientWidth}, images ${images}` }</script>"
    )

    flags = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=2000")
    dom, log = browse(frame, tmp_path / "profile", *flags)

    found = re.search(r"<title>wide (\d+) of (\d+), images (\d+)</title>", dom)
    assert found, dom[:500] + log
    assert int(found[1]) <= int(found[2]) and found[3] == "0"
    assert "CONSOLE" not in log, log
