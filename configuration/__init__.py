"""What a model and a run are. Importing it tells the auto classes that this code, not a checkpoint's copy, is NTLBG's."""

from transformers import AutoConfig

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig


AutoConfig.register("ntlbg", NTLBGConfig, exist_ok=True)
