"""The HTTP protocol: typed requests and responses of all routes, and the body of errors."""
