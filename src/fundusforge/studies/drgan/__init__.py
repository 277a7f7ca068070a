"""Study of DR-GAN (Zhou et al. 2020): does a generator paint what it is asked for, and how well?

`eyes` paints every held-out eye again; what is then asked of the paintings stands in a file each: `fidelity`
(the paper's Table II), `grades` and `masks` (does a grader see the grade, do annotators find the structures),
`diversity` (paintings of one mask), `slider` (one eye at every grade), `ablations` (all of it without a part
of the model). Any generator that paints on masks can be asked, so a rival stands the same tests.
"""
