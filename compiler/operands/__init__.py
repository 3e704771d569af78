"""The data types of a product: operands, accumulators, packing, and the dot instruction."""
