"""Menu of search strategies: each file exposes `make`, which returns an Optuna sampler; `config.sampler.name` picks."""
