"""Choosing frames without training: any dual encoder of transformers, or a weight-free descriptor."""
