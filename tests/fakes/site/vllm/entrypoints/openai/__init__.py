"""Not vLLM: a fake of it for tests."""
