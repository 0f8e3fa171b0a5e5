"""The main job behind ``make demo``: three tasks, two frameworks, with and without LLQR.

tasks     what is trained, from which weights, on which batches, to which target
loop      one run: the clock, the evaluations, the stop
training_torch, training_jax    one optimizer step in each framework
storage   one file per finished run
worker    a process that runs one framework's share
runner    starts the workers, shows progress
table, plot, command    what the user sees
"""
