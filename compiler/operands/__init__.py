"""The data types of a product: what is multiplied and summed, how it is packed, which instruction does it."""
