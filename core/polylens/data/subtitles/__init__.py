"""Synthetic pictures with subtitles, and the text of each as a conversation."""
