"""Streams: the scores of endless sound, alarms, and where their results go."""
