"""Messages between the supervisor and the process of a model's trial."""

from __future__ import annotations

import msgspec

from edgec.device_agent.process.messages import Message, decoder


class StartTrial(Message, frozen=True):
    """Try a model of the store."""

    path: str
    digest: str
    threads: int | None


class TrialResult(Message, frozen=True):
    """How the trial went; `error` is empty when the model may be used here.

    Attributes:
        error: why it may not.
        incompatible: whether the artifact is for other hardware.
        golden: what its outputs were compared with.
        load_s: seconds to load it.
        latency_ms: median of a few runs.
    """

    error: str = ""
    incompatible: bool = False
    golden: str = ""
    name: str = ""
    version: str = ""
    load_s: float = 0.0
    latency_ms: float = 0.0


START_TRIAL: msgspec.json.Decoder[StartTrial] = decoder(StartTrial)
FROM_TRIAL: msgspec.json.Decoder[TrialResult] = decoder(TrialResult)
