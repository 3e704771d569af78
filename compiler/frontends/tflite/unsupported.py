"""Operators of the schema that are not compiled, and why."""

from __future__ import annotations

_TEXTS = "it works on texts or hash tables, and compiled models compute on numbers"
_RANDOM = "it draws random numbers: no two runs agree, so that none can be verified"
_NO_KERNEL = "LiteRT has no kernel for it, so that no model can run with it"
_HASHES = "it depends on LiteRT's own hash function"
_NAMELESS = "it is no operator but a mark within the file format"

UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE"), _TEXTS),
    **dict.fromkeys(("HASHTABLE_LOOKUP", "SKIP_GRAM"), _TEXTS),
    "LSH_PROJECTION": _HASHES,
    "EMBEDDING_LOOKUP_SPARSE": "how many rows it combines depends on its input",
    **dict.fromkeys(("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"), _RANDOM),
    "STABLEHLO_RNG_BIT_GENERATOR": _RANDOM,
    **dict.fromkeys(("CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"), _NAMELESS),
    **dict.fromkeys(("CALL", "CONCAT_EMBEDDINGS"), _NO_KERNEL),
    **{
        f"STABLEHLO_{name}": _NO_KERNEL
        for name in [
            "LOGISTIC",
            "DIVIDE",
            "RESHAPE",
            "CLAMP",
            "CONCATENATE",
            "BROADCAST_IN_DIM",
            "CONVOLUTION",
            "SLICE",
            "CUSTOM_CALL",
            "REDUCE",
            "ABS",
            "COSINE",
            "EXPONENTIAL",
            "FLOOR",
            "LOG",
            "NEGATE",
            "OR",
            "POWER",
            "REMAINDER",
            "RSQRT",
            "SELECT",
            "SUBTRACT",
            "TANH",
            "COMPARE",
            "CONVERT",
            "DYNAMIC_SLICE",
            "DYNAMIC_UPDATE_SLICE",
            "IOTA",
            "DOT_GENERAL",
            "SORT",
            "WHILE",
            "TRANSPOSE",
            "CBRT",
        ]
    },
}

_ROUNDS = "up to 200 boxes are selected"
_UNROLLED = "up to 256 steps, unless it is a plain layer of floats"
_SEGMENTS = "the number of segments is constant"
_BY_VALUE = "the size of its output depends on its input, so that what follows may run in ONNX Runtime"

# What is refused of operators that are compiled.
LIMITS: dict[str, str] = {
    "BIDIRECTIONAL_SEQUENCE_LSTM": f"{_UNROLLED}; no second input with weights of its own",
    "BIDIRECTIONAL_SEQUENCE_RNN": f"{_UNROLLED}; no second input",
    "BITCAST": "between types of one size",
    "CONV_3D": "constant filters",
    "CONV_3D_TRANSPOSE": "constant filters",
    "IF": "branches that return the same shapes compile; others run in ONNX Runtime",
    "MIRROR_PAD": "constant amounts",
    "NON_MAX_SUPPRESSION_V4": _ROUNDS,
    "NON_MAX_SUPPRESSION_V5": _ROUNDS,
    "ONE_HOT": "constant depth",
    "REDUCE_WINDOW": "up to 1024 places a window",
    "REAL": "of the result of a transform",
    "IMAG": "of the result of a transform",
    "COMPLEX_ABS": "of the result of a transform",
    "RFFT2D": "up to 8192 values along an axis",
    "SEGMENT_SUM": "constant segments",
    "SPACE_TO_BATCH_ND": "constant blocks and borders",
    "BATCH_TO_SPACE_ND": "constant blocks and borders",
    "STABLEHLO_GATHER": "windows of constant size",
    "STABLEHLO_REDUCE_WINDOW": "bodies of one operator",
    "STABLEHLO_SCATTER": "bodies of one operator",
    "STRIDED_SLICE": "constant steps, none of them zero",
    "TFLite_Detection_PostProcess": f"{_ROUNDS}; batch 1",
    "TOPK_V2": "a constant count",
    "TRANSPOSE": "a constant order",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": f"{_UNROLLED} or in fixed point; no diagonal weights",
    "UNIDIRECTIONAL_SEQUENCE_RNN": _UNROLLED,
    "UNIQUE": _BY_VALUE,
    "WHERE": _BY_VALUE,
    "WHILE": "counted loops of up to 64 iterations are unrolled; others run in ONNX Runtime",
    **dict.fromkeys((f"UNSORTED_SEGMENT_{kind}" for kind in ("MAX", "MIN", "PROD", "SUM")), _SEGMENTS),
    "Landmarks2TransformMatrix": "version 2",
    "MaxUnpooling2D": "windows that neither overlap nor leave gaps",
    "TransformTensorBilinear": "batch 1",
}
