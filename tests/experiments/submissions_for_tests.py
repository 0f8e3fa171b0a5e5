"""Writes submissions that fail in ways of their own into a folder."""

WORKING = """
from submissions.baselines.adamw_{framework}.submission import *
"""
FAILURES = {
    "raising": "def update_params(*args, **kwargs):\n    raise ValueError('out of luck')\n",
    "killed": "import os\ndef update_params(*args, **kwargs):\n    os.kill(os.getpid(), 9)\n",
    "endless": "import time\ndef update_params(*args, **kwargs):\n    time.sleep(60)\n",
    "leaving": "import os\ndef update_params(*args, **kwargs):\n    os._exit(7)\n",
    # A trial's parent is a server, whose parent is what started it: kills that one, once.
    "losing": (
        "import os, pathlib\n_update = update_params\ndef update_params(*args, **kwargs):\n"
        "    marker = pathlib.Path(__file__).parent / 'lost'\n"
        "    if kwargs['global_step'] == 2 and not marker.exists():\n"
        "        marker.touch()\n"
        "        status = pathlib.Path(f'/proc/{os.getppid()}/stat').read_text()\n"
        "        os.kill(int(status.rpartition(')')[2].split()[1]), 9)\n"
        "    return _update(*args, **kwargs)\n"
    ),
    "slow": (
        "import time\n_update = update_params\ndef update_params(*args, **kwargs):\n"
        "    time.sleep(0.01)\n    return _update(*args, **kwargs)\n"
    ),
}


def write(folder, kind, framework="jax"):
    """Return the name of a new submission's folder, without the framework."""
    directory = folder / f"{kind}_{framework}"
    directory.mkdir(parents=True)
    text = WORKING.format(framework=framework) + FAILURES.get(kind, "")
    (directory / "submission.py").write_text(text)
    space = folder / "space.json"
    space.write_text(
        '{"learning_rate": {"min": 0.001, "max": 0.1, "scaling": "log"}, "one_minus_beta1": '
        '{"feasible_points": [0.1]}, "beta2": {"feasible_points": [0.99]}, "weight_decay": '
        '{"feasible_points": [0.0]}, "warmup_factor": {"feasible_points": [0.05]}}'
    )
    return f"{folder / kind}={space}"
