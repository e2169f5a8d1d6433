"""Wire protocols: negotiation, decompression, answers."""
