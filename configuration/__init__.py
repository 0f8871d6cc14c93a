"""What a model and a run are. On import the auto classes learn that this code is NTLBG's, not a checkpoint copy of it."""

from transformers import AutoConfig

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig


AutoConfig.register("ntlbg", NTLBGConfig, exist_ok=True)
