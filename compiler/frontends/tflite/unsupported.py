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
            "CONCATENATION",
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
