"""Do synthetic images help to train? Arms with and without them, against baselines that cost nothing.

`stage.augmentation` is the whole experiment, from dataset folders to a table and figures; `config` says what
can be asked, `power` whether the answer can be found.
"""
