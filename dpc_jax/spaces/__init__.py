"""Menu of search spaces: each file exposes `Space`; `config.space.name` picks one. Integers and text, no layers."""
