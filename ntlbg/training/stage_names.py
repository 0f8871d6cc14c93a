"""The names of the stages, for whoever only has to know them; `stages` says what trains in each."""

STAGES = ("selection", "joint", "end_to_end", "projectors", "joint_projectors")

# In which of them the language model trains, and in which what makes visual tokens does, so that none can be kept.
LANGUAGE_STAGES = ("joint", "end_to_end", "joint_projectors")
FEATURE_STAGES = ("end_to_end", "projectors", "joint_projectors")
