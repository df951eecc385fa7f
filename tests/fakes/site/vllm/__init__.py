"""Not vLLM: a fake of it for tests, see fake_vllm.py two folders up."""
