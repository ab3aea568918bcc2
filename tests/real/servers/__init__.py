"""Real servers, real sockets, clients that leave."""
