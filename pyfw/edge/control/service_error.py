class ServiceError(ValueError):
    """What the daemon was asked for cannot be: one line that says why.  Nothing has changed."""
