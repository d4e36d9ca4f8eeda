#!/usr/bin/env bash
# While one thread traces a module with torch.fx, modules that other threads merely call fail.
# Guess before the run: tracing is local to its tracer, so a thread that runs another network is not concerned.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$place"
venv/bin/python - <<'PYTHON'
import threading

import torch
from torch import fx, nn

torch.set_num_threads(1)
traced = nn.Sequential(*[nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(40)])
used = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
stop, messages, calls = threading.Event(), [], 0


def call():
    global calls
    while not stop.is_set():
        calls += 1
        try:
            used(torch.ones(1, 8))
        except Exception as error:
            messages.append(str(error))


worker = threading.Thread(target=call)
worker.start()
for _ in range(60):
    try:
        fx.symbolic_trace(traced)
    except Exception as error:
        messages.append(str(error))
stop.set()
worker.join()
print("torch", torch.__version__, f"{len(messages)} of {calls} calls of an untouched network failed, for example:", messages[:1])
assert messages, "changed: calling a network beside a trace works"
assert any("not installed as a submodule" in message for message in messages), messages[:3]
print("as seen before: tracing patches Module.__call__ for the whole process")
PYTHON
