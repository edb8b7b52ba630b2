"""The rpcs as `http2` serves them: steps where they arrive, all else bridged to coroutines."""
