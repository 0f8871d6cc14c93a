"""NTLBG-LLM: pick the k frames that represent a video for the question asked, and answer from those alone."""
