from edgec.compiler.frontends.trees.forest import Forest, Mode

__all__ = ["Forest", "Mode"]
