"""Fine-tuning: its flags, its batches, its schedule, its epochs and what is reported of them."""
