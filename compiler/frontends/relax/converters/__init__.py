from edgec.compiler.frontends.relax.converters.registry import CONVERTERS, CannotConvert, Node, converts


def load_all() -> None:
    """Fill the table of converters (importing their modules registers them)."""
    from edgec.compiler.frontends.relax.converters import (  # noqa: F401
        activations,
        arithmetic,
        bits,
        casts,
        class_scores,
        col2im,
        constants,
        control_flow,
        convolution,
        cumulative,
        features,
        gather_scatter,
        identity,
        integer,
        linear_algebra,
        linear_models,
        ngrams,
        normalisation,
        pooling,
        quantize_linear,
        recurrent,
        reductions,
        regions,
        resize,
        sequences,
        shaping,
        signal,
        slicing,
        sorting,
        support_vectors,
        tree_ensembles,
    )


__all__ = ["CONVERTERS", "CannotConvert", "Node", "converts", "load_all"]
