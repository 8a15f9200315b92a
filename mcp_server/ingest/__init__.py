"""From documents to what vector search stores: text, chunks, terms and embeddings."""
