"""Tree ensembles of every origin, against the libraries that made them and against a plain walk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import edgec.runtime as rt
from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.trees.lightgbm_file import read_lightgbm
from edgec.compiler.frontends.trees.model import to_onnx
from edgec.compiler.frontends.trees.ubjson import UbjsonError, decode
from edgec.compiler.frontends.trees.xgboost_file import read_xgboost
from edgec.compiler.kernels.forests.forest import Aggregate, Builder, Forest, ForestError, Mode, above, below
from edgec.compiler.kernels.forests.kernel import ForestKernel
from edgec.compiler.kernels.forests.table import lay_out
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build

VALUES = [0, 1, 2, 3, 4, 5, 1.5, -1, 100, np.nan, np.inf, -np.inf]
OPTIONS = CompileOptions(tune="none", threads=1, input_shapes={"input": (64, 6)})


def random_forest(rng: np.random.Generator, targets: int, trees: int, aggregate: Aggregate) -> Forest:
    """Trees of up to four levels that use every mode; leaves of one target each, or of all of them."""
    builder = Builder(6, targets)
    vectors = bool(rng.random() < 0.3)
    for number in range(trees):
        nodes: list[dict[str, float]] = []
        leaves: list[tuple[int, int, float]] = []
        members: dict[int, tuple[int, ...]] = {}

        def grow(depth: int) -> int:  # used up before the next tree begins
            index = len(nodes)  # noqa: B023
            nodes.append(dict(mode=7, feature=0, threshold=0, true=0, false=0, missing_true=0))  # noqa: B023
            if depth == 0 or rng.random() < 0.15:
                wanted = range(targets) if vectors else [number % targets]  # noqa: B023
                leaves.extend((index, k, float(rng.normal())) for k in wanted)  # noqa: B023
                return index
            mode = Mode(int(rng.integers(0, 7)))
            if mode is Mode.MEMBER:
                members[index] = tuple(sorted({int(v) for v in rng.integers(0, 8, 3)}))  # noqa: B023
            threshold = float(rng.choice([0, 1, 2, 3, 4, 5, 1.25, np.inf, -np.inf]))
            missing = int(rng.integers(0, 2))
            true, false = grow(depth - 1), grow(depth - 1)  # noqa: B023, RUF100
            nodes[index] = dict(  # noqa: B023
                mode=mode, feature=int(rng.integers(0, 6)), threshold=threshold, true=true, false=false,
                missing_true=missing,
            )  # fmt: skip
            return index

        grow(4)
        columns = {name: [node[name] for node in nodes] for name in nodes[0]}
        node, target, weight = zip(*leaves, strict=True)
        builder.add_tree(**columns, leaf_node=node, leaf_target=target, leaf_weight=weight, members=members)
    return builder.build(base=rng.normal(size=targets), aggregate=aggregate)


def walk(forest: Forest, x: np.ndarray) -> np.ndarray:
    """What the forest says, row by row and node by node."""
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    out = np.zeros((len(x), forest.n_targets))
    for row, features in enumerate(x):
        values: list[list[float]] = [[] for _ in range(forest.n_targets)]
        for root in forest.roots:
            node = int(root)
            while forest.mode[node] != Mode.LEAF:
                value, mode = features[forest.feature[node]], forest.mode[node]
                if np.isnan(value):
                    yes = mode == Mode.NE or bool(forest.missing_true[node])
                elif mode == Mode.MEMBER:
                    yes = float(value) in forest.members[node]
                else:
                    yes = bool(compare[mode](value, forest.threshold[node]))
                node = int(forest.true[node] if yes else forest.false[node])
            for entry in np.flatnonzero(forest.leaf_node == node):
                values[forest.leaf_target[entry]].append(float(forest.leaf_weight[entry]))
        combine = {0: lambda v: sum(v) / len(forest.roots), 1: sum, 2: min, 3: max}[int(forest.aggregate)]
        out[row] = [combine(v) for v in values]
    return out + forest.base


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    targets=st.integers(1, 3),
    trees=st.integers(3, 21),
    rows=st.sampled_from([1, 5, 37]),
    aggregate=st.sampled_from(list(Aggregate)),
)
def test_kernel_equals_a_plain_walk(
    seed: int, targets: int, trees: int, rows: int, aggregate: Aggregate
) -> None:
    rng = np.random.default_rng(seed)
    forest = random_forest(rng, targets, max(trees, targets), aggregate)
    kernel = ForestKernel(lay_out(forest), rows)
    module = tvm.compile(tvm.IRModule({"main": kernel.build("main")}), target=tvm.target.Target("llvm"))
    x = rng.choice(VALUES, size=(rows, 6)).astype(np.float32)
    out = tvm.runtime.tensor(np.zeros((rows, targets), np.float32))
    constants = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in kernel.arguments().values()]
    module["main"](tvm.runtime.tensor(x), *constants, out)
    np.testing.assert_allclose(out.numpy(), walk(forest, x), atol=1e-5)


@given(st.floats(-1e38, 1e38), st.floats(width=32, allow_nan=False))
def test_rounded_thresholds_compare_like_the_exact_ones(threshold: float, x: float) -> None:
    exact = np.array([threshold])
    assert (np.float32(x) <= below(exact)[0]) == (x <= threshold)
    assert (np.float32(x) < above(exact)[0]) == (x < threshold)


def training_data(rows: int, seed: int) -> np.ndarray:
    """Six features: four real ones, one small integer, one category of twelve; 15 % missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    x[:, 4], x[:, 5] = rng.integers(-2, 3, rows), rng.integers(0, 12, rows)
    x[rng.random(x.shape) < 0.15] = np.nan
    return x


def awkward_data(rows: int) -> np.ndarray:
    """Rows with unknown, negative and broken categories, and zeros."""
    x = training_data(rows, 1)
    x[::7, 5], x[1::7, 5], x[2::7, 5], x[3::7, 5] = 2.5, -1, 40, -0.5
    x[::3, 3], x[::5, 0] = 0, 0
    return x


def by_onnx_runtime(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x})[0])


def compiled(path: Path, folder: Path, x: np.ndarray) -> np.ndarray:
    _, artifact = build(path, folder, OPTIONS)
    with rt.load(artifact, threads=1) as model:
        return model.run({"input": x})["prediction"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "binary:logistic"},
        {"objective": "multi:softprob", "num_class": 3},
        {"objective": "multi:softmax", "num_class": 3},
        {"objective": "count:poisson"},
        {"objective": "reg:squarederror", "booster": "dart", "rate_drop": 0.3},
        {"objective": "reg:squarederror", "num_parallel_tree": 3, "subsample": 0.5},
    ],
    ids=lambda p: "-".join(str(v) for v in p.values()),
)
def test_xgboost(parameters: dict[str, object], tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="optional: pip install 'edgec[trees]'")
    x, rows = training_data(500, 0), awkward_data(64)
    score = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 5]) % 3
    labels = {"bin": score > 1, "mul": np.arange(500) % 3, "cou": np.abs(score), "reg": score}
    types = ["q"] * 5 + ["c"]
    data = xgboost.DMatrix(
        x, labels[str(parameters["objective"])[:3]], feature_types=types, enable_categorical=True
    )
    booster = xgboost.train({"max_depth": 4, "max_cat_to_onehot": 4, "seed": 0} | parameters, data, 12)
    expected = booster.predict(xgboost.DMatrix(rows, feature_types=types, enable_categorical=True))
    booster.save_model(tmp_path / "model.json")
    np.testing.assert_allclose(
        compiled(tmp_path / "model.json", tmp_path, rows), expected, rtol=1e-5, atol=1e-6
    )
    booster.save_model(tmp_path / "model.ubj")
    from_ubj, from_json = (load_source(tmp_path / f"model.{s}", OPTIONS) for s in ("ubj", "json"))
    assert from_ubj.model.graph == from_json.model.graph
    assert from_ubj.original is not None
    np.testing.assert_array_equal(from_ubj.original.run({"input": rows})["prediction"], expected)


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "binary", "sigmoid": 2.0},
        {"objective": "regression", "zero_as_missing": True},
        {"objective": "regression", "use_missing": False},
        {"objective": "multiclassova", "num_class": 3},
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
    ids=lambda p: "-".join(str(v) for v in p.values()),
)
def test_lightgbm(parameters: dict[str, object], tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="optional: pip install 'edgec[trees]'")
    x, rows = training_data(500, 0), awkward_data(64)
    score = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 5]) % 3
    labels = {"bin": score > 1, "reg": score, "mul": np.arange(500) % 3}[str(parameters["objective"])[:3]]
    quiet = {"verbose": -1, "min_data_in_leaf": 5, "min_data_per_group": 5, "cat_smooth": 1}
    data = lightgbm.Dataset(x, labels, categorical_feature=[5], params={"verbose": -1})
    booster = lightgbm.train(quiet | parameters, data, 10)
    path = tmp_path / "model.txt"
    booster.save_model(path)
    np.testing.assert_allclose(compiled(path, tmp_path, rows), booster.predict(rows), rtol=1e-5, atol=1e-6)


def test_old_files_predict_what_was_stored_with_them(shared_data: Path) -> None:
    folder = shared_data / "xgboost"
    model = read_xgboost((folder / "xg_agaricus.model").read_bytes())
    rows = [line.split()[1:] for line in (folder / "agaricus_test.libsvm").read_text().splitlines()]
    x = np.full((len(rows), model.forest.n_features), np.nan, np.float32)
    for row, cells in enumerate(rows):
        for cell in cells:
            feature, value = cell.split(":")
            x[row, int(feature)] = float(value)
    stored = np.loadtxt(folder / "xg_agaricus_true_predictions.txt")
    np.testing.assert_allclose(by_onnx_runtime(to_onnx(model), x), stored, atol=1e-6)
    boosted = read_lightgbm((folder / "lgbm_breast_cancer.txt").read_bytes())
    x = np.loadtxt(folder / "breast_cancer_test.tsv").astype(np.float32)
    stored = np.loadtxt(folder / "lgbm_breast_cancer_true_predictions.txt")
    np.testing.assert_allclose(by_onnx_runtime(to_onnx(boosted), x), stored, atol=1e-6)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_refused(shared_data: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["xg_agaricus.model", "mushroom.model", "lgbm_breast_cancer.txt"]))
    content = bytearray((shared_data / "xgboost" / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        model = (read_lightgbm if name.endswith(".txt") else read_xgboost)(damaged)
    except ForestError:
        return
    assert model.forest.n_nodes > 0  # what remains readable is a forest that passed its checks


@given(st.binary(max_size=200))
def test_ubjson_takes_any_bytes(content: bytes) -> None:
    try:
        decode(b"{" + content)
    except UbjsonError:
        return


def test_scikit_learn_pipelines(tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="optional: pip install 'edgec[trees]'")
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, rows = training_data(300, 0), training_data(64, 1)
    labels = np.array(["cat", "dog", "emu"])[np.nan_to_num(x[:, 5]).astype(int) % 3]
    forest = RandomForestClassifier(12, random_state=0)
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), forest).fit(x, labels)
    path = tmp_path / "pipeline.pkl"
    path.write_bytes(pickle.dumps(pipeline))
    source = load_source(path, OPTIONS)
    assert source.labels == ("cat", "dog", "emu")
    _, artifact = build(path, tmp_path, OPTIONS)
    with rt.load(artifact, threads=1) as model:
        label, shares = model.run({"input": rows}).values()
    np.testing.assert_allclose(shares, pipeline.predict_proba(rows), atol=1e-6)
    assert list(np.array(source.labels)[label]) == list(pipeline.predict(rows))
    regressor = GradientBoostingRegressor(n_estimators=9).fit(np.nan_to_num(x), np.nan_to_num(x[:, 0]))
    path.write_bytes(pickle.dumps(regressor))
    assert load_source(path, OPTIONS).original is not None


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/edgec-was-here",)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="optional: pip install 'edgec[trees]'")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ModelError, match=r"system.*safety"):
        load_source(path, CompileOptions())
    assert not Path("/tmp/edgec-was-here").exists()
