"""Real work whose client leaves: a model that is to stop, a story that is to be saved, orders, a storm."""
