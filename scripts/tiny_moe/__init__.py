"""The parts of train_tiny_moe.py: corpus -> tokenizer -> training -> checkpoint -> evaluation -> card."""
