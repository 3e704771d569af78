"""One file a family of architectures; each function describes one network to a graph builder."""
