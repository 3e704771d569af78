from typing import TYPE_CHECKING

from edgec.compiler.frontends.source import ImportedModel, Port, SourceModel, SourceNode

__all__ = ["ImportedModel", "Port", "SourceModel", "SourceNode", "load_source", "to_relax"]


if TYPE_CHECKING:
    from edgec.compiler.frontends.load import load_source
    from edgec.compiler.frontends.relax.to_relax import to_relax


def __getattr__(name: str) -> object:
    """Import the front ends (and with them onnx and TVM) on first use."""
    if name == "load_source":
        from edgec.compiler.frontends.load import load_source

        return load_source
    if name == "to_relax":
        from edgec.compiler.frontends.relax.to_relax import to_relax

        return to_relax
    raise AttributeError(name)
