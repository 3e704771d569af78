from edgec.compiler.frontends.relax.converters.registry import CONVERTERS, CannotConvert, Node, converts


def load_all() -> None:
    """Fill the table of converters (importing their modules registers them)."""
    from edgec.compiler.frontends.relax.converters import (  # noqa: F401
        activations,
        arithmetic,
        bits,
        branches_and_loops,
        broadcasting,
        casts,
        class_scores,
        col2im,
        constants,
        control_flow,
        convolution,
        cumulative,
        deformed,
        einsum,
        features,
        gather_scatter,
        identity,
        integer,
        layers_at_run_time,
        linear_algebra,
        linear_models,
        ngrams,
        normalisation,
        pooling,
        quantised_microsoft,
        quantised_recurrent,
        quantize_linear,
        recurrent,
        reductions,
        regions,
        resize,
        resize_at_run_time,
        selection,
        sequences,
        sequences_at_run_time,
        shaping,
        signal,
        sizes_at_run_time,
        slicing,
        sorting,
        support_vectors,
        suppression,
        tree_ensembles,
    )


__all__ = ["CONVERTERS", "CannotConvert", "Node", "converts", "load_all"]
