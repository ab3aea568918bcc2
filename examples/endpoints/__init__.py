"""What the recipes install the middleware into: an upload and an endless stream, as each framework writes them."""
