"""A specialist looks at samples of a generator before its weights are used (Kim et al. 2022).

`page` shows the samples of every snapshot beside the curve of distances; `choice` writes verdicts into the
snapshots and releases the best one that was accepted.
"""
