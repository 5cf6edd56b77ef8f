"""The worker processes: started when first needed, asked in turn, so that only one of them works at a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environments import FOLDER, Contender, NoEnvironment, python_of

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900.0  # for one answer


class Failed(Exception):
    """What a contestant could not do, with the reason."""


class Worker:
    """One process that answers questions, see `worker.py`.

    Attributes:
        versions: Python and packages of its environment.
    """

    def __init__(self, who: Contender, inputs: Path, threads: int) -> None:
        pinned = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        env = {**os.environ, **dict.fromkeys(pinned, str(threads)), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        if who.pins:
            env.pop("PYTHONPATH", None)  # a peer sees its own packages only
        python = python_of(who)
        answers, theirs = os.pipe()  # not its standard output: libraries print there when they are imported
        command = [str(python), "-m", f"benchmarks.peers.{who.module}", str(inputs), str(theirs)]
        logs = FOLDER / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{who.module}-{threads}.txt"
        with self.log.open("w") as said:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=said, stderr=said, bufsize=0,
                pass_fds=(theirs,),
            )  # fmt: skip
        os.close(theirs)
        self._lines = os.fdopen(answers)
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            Failed: The contestant raised, its process ended, or it took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(question) + "\n").encode())
        except BrokenPipeError as error:
            raise Failed(f"its process has ended, see {self.log.name}") from error
        answer = self._answer()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        if not select.select([self._lines], [], [], TIMEOUT_S)[0]:
            self._process.kill()
            raise Failed(f"no answer in {TIMEOUT_S:.0f} s")
        line = self._lines.readline()
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"its process has ended: {said[-1][:200] if said else 'no message'}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._lines.close()


class Crew:
    """All workers at one number of threads; a worker that could not start keeps its reason."""

    def __init__(self, inputs: Path, threads: int) -> None:
        self.inputs, self.threads = inputs, threads
        self._workers: dict[str, Worker | str] = {}

    def __getitem__(self, who: Contender) -> Worker:
        """A worker, started if need be.

        Raises:
            Failed: It could not be started.
        """
        if who.name not in self._workers:
            try:
                self._workers[who.name] = Worker(who, self.inputs, self.threads)
            except (NoEnvironment, Failed) as error:
                self._workers[who.name] = str(error)
        found = self._workers[who.name]
        if isinstance(found, str):
            raise Failed(found)
        return found

    def versions(self) -> dict[str, str]:
        """Of everything that runs; packages that all share are named once."""
        found: dict[str, str] = {}
        for worker in self._workers.values():
            found |= worker.versions if isinstance(worker, Worker) else {}
        return found

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers.values():
            if isinstance(worker, Worker):
                worker.close()


@contextmanager
def crew(inputs: Path, threads: int) -> Iterator[Crew]:
    """Workers that are ended with the block."""
    found = Crew(inputs, threads)
    try:
        yield found
    finally:
        found.close()
