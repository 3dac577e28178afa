"""What each source type is at the target: one module per family of sources, one registration per type."""
