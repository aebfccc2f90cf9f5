"""Container images: reading archives, the store, trust.

Nothing is imported here: `run` of a stored image must not pay for the code that unpacks one.
"""
