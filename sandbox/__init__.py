"""A Versature of our own, for demos and tests: authorization server, a few API calls, and faults on demand.

It behaves as the provider is known to behave and, where nobody knows, as its switches say. Everything it knows lives
in memory and ends with it. Only `demo.py` knows the product.
"""
