"""The domain: events, the bus that carries them and the engine that makes them."""
