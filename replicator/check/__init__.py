"""`replicator check`: everything a run needs, tried before it is needed, and how to mend what fails."""
