from edgec.compiler.frontends.source import ImportedModel, Port, SourceModel, SourceNode

__all__ = ["ImportedModel", "Port", "SourceModel", "SourceNode"]
