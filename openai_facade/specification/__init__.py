"""What this server does of OpenAI's API, as data: OpenAI's document, what we do of it, and the document made of both."""
