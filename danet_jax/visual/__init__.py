"""Pages and images of results."""
