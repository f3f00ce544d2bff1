"""One attempt at the provider, from the claim to the caches, and what failures teach."""
