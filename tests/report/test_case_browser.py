"""The page of a case in a real browser: it opens from a file, runs nothing, and is no wider than a narrow window."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_browser import CHROMIUM, browse

from veriscope.cases import Depth, read_logs
from veriscope.cases.case import Options, work
from veriscope.cases.models import model_of
from veriscope.report.case_page import write

EXAMPLES = Path(__file__).parents[2] / "examples" / "cases"
QUICK = Options(repair=False, depth=Depth(floor=6, strongest=4, shown=1, draws=2, tokens=4), shapley_passes=4.0)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)"),
]


@pytest.mark.parametrize("name", ["agreement", "lost_context"])
def test_the_page_opens_and_is_no_wider_than_its_window(tmp_path: Path, name: str) -> None:
    log = read_logs(EXAMPLES / f"{name}.json")[0]
    page = write(work(log, model_of(log), options=QUICK), tmp_path / "case.html")
    # The page allows no script, so a frame around it measures how wide it would like to be.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.name}" width="400" height="900"></iframe><script>onload = () => {{'
        "const d = document.getElementById('f').contentDocument.documentElement;"
        "d.querySelectorAll('details').forEach(part => { part.open = true });"
        "const drawn = d.querySelectorAll('.ribbon').length;"
        "document.title = `wide ${d.scrollWidth} of ${d.clientWidth}, drawn ${drawn}` }</script>"
    )

    flags = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=2000")
    dom, log_of_browser = browse(frame, tmp_path / "profile", *flags)

    found = re.search(r"<title>wide (\d+) of (\d+), drawn (\d+)</title>", dom)
    assert found, dom[:500] + log_of_browser
    assert int(found[1]) <= int(found[2]) and int(found[3]) > 0
    assert "CONSOLE" not in log_of_browser, log_of_browser
