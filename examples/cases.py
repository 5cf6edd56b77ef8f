"""`python examples/cases.py`: writes the logs of examples/cases, planted with a known cause on models of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

from veriscope.zoo.incidents import Planted, incidents

FOLDER = Path(__file__).parent / "cases"
PLANTED = (
    "trigger_phrase", "glitch_token", "agreement", "mistaken_speaker", "lost_context", "wrong_fact", "unlisted",
    "clean",
)  # fmt: skip
SEED = 21


def main() -> None:
    """One log of each cause, as a chat and on the model that ships where there is such a one."""
    FOLDER.mkdir(exist_ok=True)
    for cause in PLANTED:
        marked = [one for one in incidents(cause, 12, SEED) if "strange" in one.log]
        planted = max(marked, key=lambda one: (one.model.path.endswith(":shipped"), "messages" in one.log))
        (FOLDER / f"{cause}.json").write_text(json.dumps(entry(planted), indent=1) + "\n", encoding="utf-8")


def entry(planted: Planted) -> dict[str, object]:
    """A log as a file: what was said, the strange words, what was expected, and who spoke."""
    build = planted.model.plain()
    shipped = build["path"].endswith(":shipped")
    model = build["settings"].get("variant", "town") if shipped else build
    told = {"expected": planted.truth["right"]} if planted.truth["right"] else {}
    return {**planted.log, **told, "model": model}


if __name__ == "__main__":
    main()
