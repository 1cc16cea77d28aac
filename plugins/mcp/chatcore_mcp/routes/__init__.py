"""The HTTP API: the servers, and the choices of which a client's turns are given."""
