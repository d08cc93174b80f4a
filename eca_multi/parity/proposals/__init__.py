"""How a map between two models is proposed: from names, shapes and order, and from running both."""
