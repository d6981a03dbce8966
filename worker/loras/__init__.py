"""LoRA files: which layers they name, what they add to those, and what is wrong with them."""
