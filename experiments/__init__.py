"""Experiments: comparisons of submissions at equal tuning budgets, search, scores and a report.

    submissions   names on the command line ↦ folders
    points        hyperparameters of the trials of a study
    plan          all trials of a comparison, each with its settings and folder
    records       the file that a trial leaves: settings, versions, seed, curve, result
    trial         one trial in a process of its own
    engines/      who runs the trials: processes of this machine, or Ray
    comparison    does what is missing, shows progress
    scoring       times to target, performance profiles, scores; bootstrap for intervals
    tables, plots, page, report    what the reader sees
    search        good hyperparameters within a fixed budget

Importing this package loads neither framework; trials do, in their own processes.
"""
