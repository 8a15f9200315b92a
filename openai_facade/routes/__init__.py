"""One module per OpenAI resource; each exports `routes(facade)` and is found on its own."""
