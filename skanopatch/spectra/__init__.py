"""Log-mel spectrograms, patches of them, and their statistics."""
