"""The front end of pickled scikit-learn estimators (pickle or joblib), by way of skl2onnx.

A pickle is a program, and a hostile one may do anything. Only classes of scikit-learn, and what numpy needs
to build arrays, are ever instantiated; any other name in a pickle is rejected before it is looked up.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from edgec.compiler.errors import ModelError, opening
from edgec.compiler.frontends.interface import Loaded, read_file, require
from edgec.compiler.frontends.sklearn import trees
from edgec.compiler.kernels.forests.forest import ForestError
from edgec.compiler.options import CompileOptions

Arrays = Mapping[str, npt.NDArray[np.generic]]
INPUT = "input"
OPSETS = {"": 18, "ai.onnx.ml": 3}
EXTRA = "trees"
MOST_LOADING_S = 120

# Everything that may appear in the pickle of an estimator; none of these runs code that the file brings.
ALLOWED = frozenset(
    {
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "slice"),
        ("builtins", "complex"),
        ("builtins", "int"),
        ("builtins", "float"),
        ("builtins", "bool"),
        ("builtins", "str"),
        ("builtins", "object"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("copyreg", "_reconstructor"),
        ("functools", "partial"),  # from the other modules allowed here
        ("_codecs", "encode"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy", "float32"),
        ("numpy", "float64"),
        ("numpy", "int32"),
        ("numpy", "int64"),
        ("numpy", "bool_"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.random.bit_generator", "SeedSequence"),
        ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._pickle", "__generator_ctor"),
        ("numpy.random._mt19937", "MT19937"),
        ("numpy.random._pcg64", "PCG64"),
        ("scipy.sparse._csr", "csr_matrix"),
        ("scipy.sparse._csc", "csc_matrix"),
    }
)
SKLEARN_MODULES = (
    "calibration", "cluster", "compose", "cross_decomposition", "decomposition", "discriminant_analysis",
    "dummy", "ensemble", "feature_selection", "gaussian_process", "impute", "isotonic",
    "kernel_approximation",
    "linear_model", "mixture", "multiclass", "multioutput", "naive_bayes", "neighbors", "neural_network",
    "metrics", "pipeline", "preprocessing", "random_projection", "semi_supervised", "svm", "tree", "utils",
    "_loss",
)  # fmt: skip


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a fitted estimator or pipeline and convert it.

    Raises:
        ModelError: damaged, not an estimator, or with classes of other packages.
        ToolMissing: scikit-learn or skl2onnx is not installed.
    """
    require("sklearn", EXTRA, path)
    skl2onnx = require("skl2onnx", EXTRA, path)
    content, digest = read_file(path)
    estimator = _unpickle(content, path)
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise ModelError(f"{path}: holds a {type(estimator).__name__}, which is not a fitted estimator")
    from skl2onnx.common.data_types import FloatTensorType

    try:
        if trees.is_boosted_by_histogram(estimator):
            model = trees.convert_boosted(estimator)
            return Loaded(model, digest, _Estimator(estimator, [v.name for v in model.graph.output]))
        model = skl2onnx.convert_sklearn(
            estimator,
            initial_types=[(INPUT, FloatTensorType([None, int(features)]))],
            target_opset=OPSETS,
        )
        trees.restore_missing(model, estimator)
        _turn_scores(model, estimator)
    except ForestError as error:
        raise ModelError(f"{path}: this {type(estimator).__name__} cannot be compiled: {error}") from error
    except (
        RuntimeError,
        ValueError,
        TypeError,
        NameError,
        AttributeError,
        LookupError,
        MemoryError,
    ) as error:
        # skl2onnx reports a missing converter by an error of any of these classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path}: skl2onnx cannot convert this {type(estimator).__name__}: {reason}"
        ) from error
    outputs = [value.name for value in model.graph.output]
    # the scores of outlier detectors and clusterings are defined by skl2onnx, not by a method of theirs
    known = hasattr(estimator, "classes_") or len(outputs) == 1
    return Loaded(model, digest, _Estimator(estimator, outputs) if known else None)


def _turn_scores(model: ModelProto, estimator: Any) -> None:  # noqa: ANN401 - untyped, as scikit-learn
    """Give support vectors' scores of two classes the sign of scikit-learn's (in place): skl2onnx flips it."""
    machines = [node for node in model.graph.node if node.op_type == "SVMClassifier"]
    two = len(getattr(estimator, "classes_", ())) == 2 and not hasattr(estimator, "predict_proba")
    if len(machines) == 1 and two:
        scores = machines[0].output[1]
        machines[0].output[1] = f"{scores}_turned"
        at = list(model.graph.node).index(machines[0]) + 1
        model.graph.node.insert(at, helper.make_node("Neg", [f"{scores}_turned"], [scores], name="turn"))


def allowed(module: str, name: str) -> bool:
    """Whether a pickle may name this class or function, judged by its name."""
    if (module, name) in ALLOWED:
        return True
    parts = module.split(".")
    if parts[:2] == ["numpy", "dtypes"]:
        return name.endswith("DType")
    if (module, name) == ("sklearn.utils.validation", "check_array"):
        return True
    ours = parts[0] == "sklearn" and len(parts) > 1 and parts[1] in SKLEARN_MODULES and "." not in name
    return ours and (name.lstrip("_")[:1].isupper() or name == "newObj" or name.startswith("__pyx_unpickle_"))


def _unpickle(content: bytes, path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    from joblib.numpy_pickle import NumpyUnpickler

    class Restricted(NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
            if allowed(module, name):
                found = super().find_class(module, name)
                # sklearn's modules also contain names imported from elsewhere
                if not module.startswith("sklearn.") or str(found.__module__).startswith("sklearn."):
                    return found
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is not part of scikit-learn and is not loaded for safety"
            )

        def load_build(self) -> None:
            if isinstance(self.stack[-2], np.dtype):
                _check_dtype_state(self.stack[-1])
            super().load_build()

        dispatch = {**NumpyUnpickler.dispatch, pickle.BUILD[0]: load_build}  # noqa: RUF012 - as its base has it

    def read() -> Any:  # noqa: ANN401
        return Restricted(str(path), io.BytesIO(content), ensure_native_byte_order=True).load()

    crash = _crash_of(read)
    if crash:
        raise ModelError(f"{path}: cannot be loaded as a scikit-learn model: numpy crashes on it ({crash})")
    try:
        return read()
    except (pickle.UnpicklingError, EOFError, *_DAMAGE) as error:
        raise ModelError(f"{path}: cannot be loaded as a scikit-learn model: {opening(error)}") from error
    except (AttributeError, ImportError, ModuleNotFoundError) as error:
        raise ModelError(
            f"{path}: was made with another version of scikit-learn ({opening(error)}); save it again with this one"
        ) from error


def _crash_of(work: Callable[[], object]) -> str:
    """The signal that ends a forked process that does `work`; empty if none does.

    Arrays in a pickle state their own layout, and numpy and scikit-learn believe it.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(MOST_LOADING_S)
        with suppress(BaseException):  # it is raised again where it is reported
            work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""


# What unpickling raises for a file whose opcodes are out of place.
_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    AssertionError,
    RuntimeError,
    SystemError,
    MemoryError,
)


def _check_dtype_state(state: Any) -> None:  # noqa: ANN401 - whatever the file holds
    """Check the state of a numpy data type: numpy believes it, and crashes on one that is made up.

    Raises:
        UnpicklingError: it is not as numpy writes it.
    """
    kinds = (
        (int,),
        (str,),
        (tuple, type(None)),
        (tuple, type(None)),
        (dict, type(None)),
        (int,),
        (int,),
        (int,),
    )
    plain = isinstance(state, tuple) and 8 <= len(state) <= 9
    if not plain or any(not isinstance(v, kind) for v, kind in zip(state, kinds, strict=False)):
        raise pickle.UnpicklingError("it holds a damaged data type")
    names, fields, small = state[3], state[4], all(-1 <= number < 1 << 20 for number in state[5:8])
    paired = (names is None) == (fields is None) and set(names or ()) == set(fields or {})
    if state[0] not in (3, 4) or state[1] not in ("<", ">", "|", "=") or not small or not paired:
        raise pickle.UnpicklingError("it holds a damaged data type")


class _Estimator:
    """An estimator as the reference."""

    def __init__(self, estimator: Any, outputs: list[str]) -> None:  # noqa: ANN401
        import sklearn

        self._estimator, self._outputs = estimator, outputs
        self.description = f"scikit-learn {sklearn.__version__}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs as skl2onnx names them: a label and probabilities, or a variable."""
        x = inputs[INPUT].astype(np.float64)
        results: list[Any] = []
        if not hasattr(self._estimator, "predict"):
            return {self._outputs[0]: np.asarray(self._estimator.transform(x)).astype(np.float32)}
        predicted = np.asarray(self._estimator.predict(x))
        classes = getattr(self._estimator, "classes_", None)
        if classes is not None:
            if predicted.dtype.kind in "OUS":
                predicted = np.searchsorted(np.asarray(classes), predicted)
            results.append(predicted.astype(np.int64))
            results.append(self._scores(x))
        else:
            width = 1 if predicted.ndim == 1 else predicted.shape[1]
            results.append(predicted.reshape(len(predicted), width).astype(np.float32))
        return dict(zip(self._outputs, results, strict=False))

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """Empty: an estimator has only one implementation."""
        return {}

    def _scores(self, x: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        if hasattr(self._estimator, "predict_proba"):
            return np.asarray(self._estimator.predict_proba(x)).astype(np.float32)
        scores = np.asarray(self._estimator.decision_function(x)).astype(np.float32)
        return scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
