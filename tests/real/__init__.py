"""Everything that runs on real servers: their conformance, the clients that the world has, workloads, uploads."""
