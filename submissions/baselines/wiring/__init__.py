"""What the baselines share: batch sizes, schedules, and one training step per framework around any optimizer.

A baseline is a function that makes an optimizer of a kept library from hyperparameters; everything else is
here. Workloads are known by AlgoPerf's API alone, so the baselines run on its workloads as well.
"""
