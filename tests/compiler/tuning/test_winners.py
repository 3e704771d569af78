"""Winners: what a cache, a family of workloads and the package's own file give to the next compile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tvm

from edgec.compiler.backends.cpu.timing import FAR_BYTES, far_arguments
from edgec.compiler.backends.cpu.winners import cache_key
from edgec.compiler.backends.interface import FAMILY, Workload
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.compiler.tuning import cache as tuning_cache
from edgec.compiler.tuning import ship
from edgec.compiler.tuning.cache import TuningCache, Winner
from edgec.compiler.tuning.tuner import Tuner
from edgec.targets import load_target, machine_arch

TARGET = load_target("x86-64-v3")
BACKEND = backend_of(TARGET)


def _work(epilogue: str) -> Workload:
    family = f"{BACKEND.current_workloads[0]}spec|{FAMILY}|threads1"
    return Workload(
        family.replace(FAMILY, epilogue), family, "conv2d", 1, 1, 1, ("guess", "winner"), lambda _: None
    )


def _tuner(folder: Path) -> Tuner:
    return Tuner(BACKEND, CompileOptions(tune="none", cache_dir=folder), Silent())


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped"
    monkeypatch.setattr(ship, "SHIPPED", folder)
    monkeypatch.setattr(tuning_cache, "SHIPPED", folder)
    tuning_cache._shipped.cache_clear()
    yield folder
    tuning_cache._shipped.cache_clear()


def test_a_winner_serves_its_workload_before_its_family(tmp_path: Path, shipped: Path) -> None:
    cache = TuningCache(tmp_path, BACKEND.winners_key)
    work = _work("relu")
    assert _tuner(tmp_path).choose(work) == "guess"
    cache.put(work.family, Winner("winner", 1.0), "fast")
    assert _tuner(tmp_path).choose(work) == "winner"
    cache.put(work.key, Winner("guess", 1.0), "fast")
    assert _tuner(tmp_path).choose(work) == "guess"
    assert _tuner(tmp_path).choose(_work("add")) == "winner"


def test_a_schedule_that_is_no_candidate_any_more_is_passed_over(tmp_path: Path, shipped: Path) -> None:
    work = _work("relu")
    TuningCache(tmp_path, BACKEND.winners_key).put(work.key, Winner("of another version", 1.0), "fast")
    assert _tuner(tmp_path).choose(work) == "guess"


def test_shipped_winners_serve_workloads_of_their_family(
    tmp_path: Path, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = TuningCache(tmp_path / "filled", BACKEND.winners_key)
    work = _work("relu")
    filled.put(work.family, Winner("winner", 2.0), "fast")
    filled.put(work.family.replace(BACKEND.current_workloads[0], "conv2d.v0|"), Winner("winner", 2.0), "fast")
    filled.put(work.key, Winner("guess", 2.0), "fast")
    ship.main([TARGET.name, str(tmp_path / "filled")])
    file = shipped / f"{BACKEND.shipped_keys[0]}.json"
    assert json.loads(file.read_text()) == {BACKEND.shipped_keys[0]: {work.family: ["winner", 2.0]}}
    assert "1 winners" in capsys.readouterr().out
    assert _tuner(tmp_path / "empty").choose(work) == "winner"
    full = CompileOptions(tune="full", cache_dir=tmp_path / "empty")
    assert Tuner(BACKEND, full, Silent())._known(work) is None


def test_winners_of_a_core_that_borrows_anothers_are_written_to_its_own_file(
    tmp_path: Path, shipped: Path
) -> None:
    target = load_target("zen4")
    assert target.core.winners == "cascadelake"
    backend, work = backend_of(target), _work("relu")
    TuningCache(tmp_path, backend.winners_key).put(work.family, Winner("winner", 2.0), "fast")
    ship.main([target.name, str(tmp_path)])
    assert [path.name for path in shipped.iterdir()] == ["x86_64-zen4-v512x32.json"]
    assert backend.shipped_keys == ("x86_64-zen4-v512x32", "x86_64-cascadelake-v512x32")


def test_a_cores_own_winners_come_before_borrowed_ones(tmp_path: Path, shipped: Path) -> None:
    backend, work = backend_of(load_target("zen4")), _work("relu")
    own, borrowed = backend.shipped_keys
    shipped.mkdir()
    (shipped / "own.json").write_text(json.dumps({own: {work.family: ["winner", 1.0]}}))
    (shipped / "borrowed.json").write_text(
        json.dumps({borrowed: {work.family: ["guess", 1.0], work.key: ["guess", 1.0]}})
    )
    cache = TuningCache(tmp_path, backend.winners_key, backend.shipped_keys)
    assert cache.get(work.family, "fast") == Winner("winner", 1.0)
    assert cache.get(work.key, "fast") == Winner("guess", 1.0)
    assert cache.get(work.family, "full") is None


def test_winners_found_on_one_core_do_not_serve_another_that_shares_the_folder() -> None:
    target = load_target("x86-64-v3")
    assert cache_key(target, "zen4") != cache_key(target, "alderlake-n")


def test_winners_serve_the_core_on_which_they_were_measured_only() -> None:
    keys = {
        name: backend_of(load_target(name)).shipped_keys
        for name in ("cortex-a53", "cortex-a55", "rpi4", "rpi5")
    }
    assert len(set(keys.values())) == len(keys)
    shipped = tuning_cache._shipped()
    for name in ("x86-64-v3", "x86-64-v4", "x86-avx512-vnni", "x86-avx512-bf16"):
        assert any(shipped.get(key) for key in backend_of(load_target(name)).shipped_keys)


def test_targets_that_differ_in_an_instruction_of_kernels_share_no_cache() -> None:
    names = ("x86-64-v4", "x86-avx512-vnni", "x86-avx512-bf16")
    assert len({backend_of(load_target(name)).winners_key for name in names}) == len(names)


def test_layers_of_many_weights_are_timed_on_copies_of_them() -> None:
    tensor = tvm.runtime.tensor
    data, out = tensor(np.zeros(1 << 20, np.float32)), tensor(np.zeros(1 << 20, np.float32))
    small = [data, tensor(np.zeros(64, np.float32)), out]
    assert far_arguments(small) == [small]
    weights = np.arange(1 << 19, dtype=np.float32)
    sets = far_arguments([data, tensor(weights), out])
    addresses = {np.from_dlpack(arguments[1]).ctypes.data for arguments in sets}
    assert len(addresses) == len(sets)
    assert len(sets) * weights.nbytes >= FAR_BYTES
    assert all(arguments[0] is data and arguments[-1] is out for arguments in sets)
    assert all(np.array_equal(arguments[1].numpy(), weights) for arguments in sets)


def test_targets_that_differ_in_speed_do_not_share_winners() -> None:
    names = ("x86-64-v3", "x86-64-v4", "rpi4", "rpi5")
    assert len({backend_of(load_target(name)).winners_key for name in names}) == len(names)


def test_nothing_is_timed_for_another_architecture(tmp_path: Path) -> None:
    options = CompileOptions(threads=4, tune="fast", cache_dir=tmp_path)
    other = "x86-64-v3" if machine_arch() == "aarch64" else "rpi4"
    assert not Tuner(backend_of(load_target(other)), options, Silent()).measures
