"""Zero-shot tasks, asked of the original and of each variant, item by item."""
