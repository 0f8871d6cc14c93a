"""Our metrics as modules of `evaluate`: one file each, for `evaluate.load(<path of the file>)` or by class.

They need `ntlbg[eval]`; what they compute is in `ntlbg.evaluation.*_scores`, which needs numpy alone.
"""
