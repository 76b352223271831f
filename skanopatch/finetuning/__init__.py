"""What fine-tuning adds to a backbone: pooling, ArcFace, augmentation, the training net."""
