"""Source readers: each turns one kind of source into the one change stream (I5)."""
