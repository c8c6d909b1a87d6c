"""The door of HTTP: connections, routes and bodies, from the socket to a Request and back."""
