"""What Python does with traffic: accounting off the request path, and the stages in it."""
