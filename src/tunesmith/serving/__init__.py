"""A server of OpenAI's API over one engine: HTTP in asyncio, the model in its own thread."""
