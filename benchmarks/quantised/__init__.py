"""How right quantised models are: beside LiteRT, element by element, and with the same bits on every processor."""
