"""What a clip is: paths, arrays and pairs, how they are read, and their labels."""
