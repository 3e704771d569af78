from edgec.compiler.frontends.relax.converters.registry import CONVERTERS, Node, Refusal, converts


def load_all() -> None:
    """Fill the table of converters (importing their modules registers them)."""
    from edgec.compiler.frontends.relax.converters import (  # noqa: F401
        basic,
        bits,
        control,
        convolution,
        integer,
        legacy,
        misc,
        ml,
        narrow,
        pooling,
        quantised,
        recurrent,
        regions,
        resize,
        signal,
        slicing,
        svm,
        trees,
    )


__all__ = ["CONVERTERS", "Node", "Refusal", "converts", "load_all"]
