"""How language and vision meet: the cores, behind one contract."""
