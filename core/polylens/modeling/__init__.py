"""What several model families share. Nothing here knows a family."""
