"""Tasks of ours for lmms-eval: official ones with another prompt, each under a name of its own.

lmms-eval --model ntlbg --include_path $(python -m ntlbg.evaluation.lmms_tasks) --tasks videomme_selected_subtitles ...
"""
