"""What a model and a run are. On import the auto classes learn that this code is NTLBG's, not that of a checkpoint."""

from transformers import AutoConfig

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig


AutoConfig.register("ntlbg", NTLBGConfig, exist_ok=True)
