"""First on PYTHONPATH of the agent under test: artifacts whose compiled code is behaviour told in JSON.

The artifacts are real (manifest, digests, config); only their code blob is JSON instead of machine code, so
that a test can ask for a model that crashes, hangs or returns NaN on a certain frame. It also lets a test end
a process at a chosen write of a state file.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

import edgec.runtime as rt
from edgec.runtime import Box, Detection, Sound
from edgec.runtime.processing.audio import AudioPreprocessor
from edgec.runtime.processing.sound_stream import SoundStream


def _happens(behaviour, what, count):
    """From a frame on, or as soon as a file is there."""
    when = behaviour.get(what)
    return Path(when).exists() if isinstance(when, str) else when is not None and count >= when


def _misbehave(behaviour, count, prefix=""):
    if _happens(behaviour, f"{prefix}crash", count):
        os.kill(os.getpid(), signal.SIGSEGV)
    if _happens(behaviour, f"{prefix}hang", count):
        while True:
            time.sleep(60)
    if _happens(behaviour, f"{prefix}error", count):
        raise RuntimeError("the kernel failed")


class FakeModel:
    def __init__(self, artifact):
        self.config = artifact.config
        self.card = artifact.card()
        self.inputs = self.config.inputs
        self.outputs = self.config.outputs
        self.behaviour = json.loads(artifact.code())
        self.frames = 0
        _misbehave(self.behaviour, 0, "load_")
        time.sleep(self.behaviour.get("load_s", 0))

    def call(self, arrays):
        return [self.run({})[spec.name] for spec in self.outputs]

    def run(self, inputs):
        _misbehave(self.behaviour, 0, "run_")
        value = np.nan if self.behaviour.get("run_nan") else 1.0
        return {spec.name: np.full(spec.shape, value, spec.dtype) for spec in self.outputs}

    def predict(self, frame):
        self.frames += 1
        _misbehave(self.behaviour, self.frames)
        time.sleep(self.behaviour.get("delay_ms", 0) / 1000)
        score = self.behaviour.get("score", 0.9)
        if _happens(self.behaviour, "nan", self.frames):
            score = float("nan")
        if frame.ndim == 1:
            loud = float(np.sqrt(np.mean(np.square(frame)))) > 0.05
            return [Sound("loud", 0, score, 0.0, 0.5)] if loud else []
        found = []
        for class_id, (channel, other) in enumerate(((2, 0), (0, 2))):
            mask = (frame[..., channel] > 200) & (frame[..., other] < 60)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if rows.size:
                box = Box(*map(float, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
                found.append(Detection(box, ("red", "blue")[class_id], class_id, score))
        return found

    def listen(self):
        own = AudioPreprocessor(self.card.input, (1, self.card.input.window_samples), "float32")
        return SoundStream(own, lambda tensor, _: self.predict(tensor.reshape(-1)))

    def close(self):
        pass


def load(path, *, digest=None, threads=None, affinity=None):
    artifact = rt.Artifact.open(Path(path), digest=digest)
    artifact.verify_digests()
    return FakeModel(artifact)


rt.load = load

if "EDGEC_TEST_KILL_AT_WRITE" in os.environ:
    from edgec.device_agent.process import statefile

    _name, _number, _moment = os.environ["EDGEC_TEST_KILL_AT_WRITE"].split(":")
    _real, _seen = statefile.write_durably, [0]

    def write_durably(path, data, mode=0o644):
        if path.name != _name:
            return _real(path, data, mode)
        _seen[0] += 1
        if _seen[0] == int(_number) and _moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        _real(path, data, mode)
        if _seen[0] == int(_number) and _moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    statefile.write_durably = write_durably

if "EDGEC_TEST_CLOCK_YEARS" in os.environ:
    _jump = float(os.environ["EDGEC_TEST_CLOCK_YEARS"]) * 365.25 * 86400
    _from = time.monotonic() + float(os.environ["EDGEC_TEST_CLOCK_AFTER_S"])
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + (_jump if time.monotonic() > _from else 0)
    time.time_ns = lambda: _time_ns() + (round(_jump * 1e9) if time.monotonic() > _from else 0)
