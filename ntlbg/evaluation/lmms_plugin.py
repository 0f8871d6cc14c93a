"""How lmms-eval finds our model: the entry point `ntlbg` of the group `lmms_eval.models` (setup.cfg).

Nothing heavy is imported here: lmms-eval asks every installed plug-in at its start, and takes any failure for a model
that is not there.
"""


def manifest():
    """The manifest of `lmms-eval --model ntlbg`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="ntlbg", chat_class_path="ntlbg.evaluation.lmms_model.NTLBG")
