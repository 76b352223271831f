"""The network that embeds clips, and its fine-tuning."""
