"""The supervisor's side of a model's trial: one process, once, with a deadline."""

from __future__ import annotations

from concurrent.futures import Future

from edgec.device_agent.inference.runner import Candidate
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.supervisor import Exit, StartMessage, Supervisor
from edgec.device_agent.updates.messages import FROM_TRIAL, StartTrial, TrialResult


class TrialRunner:
    """Tries models, one at a time; call it from the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._process: Supervisor[TrialResult] | None = None

    def begin(self, model: Candidate, timeout_s: float) -> Future[TrialResult]:
        """Run a model of the store in a process of its own, killed when it takes too long."""
        future: Future[TrialResult] = Future()
        answers: list[TrialResult] = []

        def first() -> StartMessage:
            return StartTrial(model.path, model.digest or "", model.threads), ()

        def exited(how: Exit) -> bool:
            self._process = None
            silent = TrialResult(error=f"the process that tried the model {how}")
            future.set_result(answers[0] if answers else silent)
            return False

        process = self._process = Supervisor(
            self._loop, "trial", "edgec.device_agent.updates.trial", FROM_TRIAL,
            first=first, on_message=answers.append, on_exit=exited, retry=RetryPolicy(0.0, 0.0),
        )  # fmt: skip
        process.start()
        process.kill_after(timeout_s, f"the model did not answer within {timeout_s:.0f} s")
        return future

    def close(self) -> None:
        """End a trial that is under way."""
        if self._process is not None:
            self._process.kill("the agent stops")
