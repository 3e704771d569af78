"""What compiles of one model for several targets share: the imported graph, and what the reference computes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from edgec.compiler.frontends import ImportedModel, load_source, to_relax
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.assess import Expected, expected_for
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import Arrays


@dataclass
class Shared:
    """Results that do not depend on the target, each made by the first compile that needs it."""

    _sources: dict[str, SourceModel] = field(default_factory=dict)
    _imported: dict[str, ImportedModel] = field(default_factory=dict)
    _expected: dict[str, tuple[SourceModel, Future[Expected]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def source(self, path: Path, options: CompileOptions) -> SourceModel:
        """The model, read with the shapes and states that `options` names (see `load_source`)."""
        key = _front_end_key(path, options)
        if key not in self._sources:
            self._sources[key] = load_source(path, options)
        return self._sources[key]

    def imported(self, path: Path, options: CompileOptions, on_host: Collection[int] = ()) -> ImportedModel:
        """The model's graph (see `to_relax`)."""
        key = f"{_front_end_key(path, options)} {options.fallback} {sorted(on_host)}"
        if key not in self._imported:
            self._imported[key] = to_relax(
                self.source(path, options), fallback_allowed=options.fallback, on_host=on_host
            )
        return self._imported[key]

    def expected(
        self,
        source: SourceModel,
        probes: Sequence[Probe],
        threads: int,
        budget: float,
        steps: Sequence[Arrays],
    ) -> Expected:
        """What the reference gives (see `expected_for`); a second caller waits for what the first one computes."""
        digest = hashlib.sha256(repr((id(source.reference), threads, budget)).encode())
        for arrays in (*(probe.inputs for probe in probes), *steps):
            for name, array in sorted(arrays.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
        key = digest.hexdigest()
        with self._lock:
            # the model is kept with the result, so that its id stays its own
            mine = key not in self._expected
            kept = self._expected.setdefault(key, (source, Future[Expected]()))[1]
        if mine:
            try:
                kept.set_result(expected_for(source, probes, threads, budget, steps))
            except BaseException as error:  # noqa: BLE001 - whoever else waits for the result gets it
                kept.set_exception(error)
        return kept.result()


def _front_end_key(path: Path, options: CompileOptions) -> str:
    return repr(
        (path, sorted(options.input_shapes.items()), options.states, sorted(options.constants.items()))
    )
