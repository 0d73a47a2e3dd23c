#!/bin/sh
# The GPUs of this machine, as Spark asks for them (spark.executor.resource.gpu.discoveryScript,
# spark.worker.resource.gpu.discoveryScript): {"name": "gpu", "addresses": ["0", "1"]}.
# A machine without GPUs, or without NVIDIA's driver, has the empty list.
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) || indices=
addresses=$(printf '%s\n' "$indices" | sed -n 's/^ *\([0-9][0-9]*\) *$/"\1"/p' | paste -s -d , -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
