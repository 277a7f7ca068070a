"""Studies of the chain of Sengupta et al. 2019: drawn trees, painted, and held against real eyes.

`tables` gives the figures of the paper and those that it lacks, for one or several sources of trees;
`folds` asks whether the drawn eyes help to train a segmenter.
"""
