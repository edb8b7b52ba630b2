"""The rpcs as coroutines, for whichever transport carries them."""
