#!/usr/bin/env bash
# What a GPU does: smoke tests, training steps, the loader, runs from shards. See docs/benchmarks/gpu.md.
#
#     benchmarks/gpu.sh smoke|step|data|train [--out DIR] [--seconds 520] [--again] [--device cpu]
#
# Needs this repository and Python with what rs-pretrain needs; no network, no data. Every cell is kept in OUT/<what>.json
# as soon as it is measured and is not measured again; the same command goes on. Status 0: all is measured; 3: time is up.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
[[ -z "${PYTHON:-}" && -x .venv/bin/python ]] && python=.venv/bin/python
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG="${CUBLAS_WORKSPACE_CONFIG:-:4096:8}"

missing=$("$python" - <<'PY'
import importlib, importlib.util
wanted = "torch timm torchvision numpy PIL pyarrow pydantic simplejpeg yaml rich safetensors numba".split()
missing = [name for name in wanted if importlib.util.find_spec(name) is None]
if "pydantic" not in missing:
    try:
        importlib.import_module("pydantic.fields")  # needs packages of its own: wheels copied one by one may lack them
    except ModuleNotFoundError as error:
        missing.append(error.name)
print(*missing)
PY
) || { echo "gpu.sh: $python does not run; set PYTHON=... to one that has torch" >&2; exit 2; }
if [[ -n "$missing" ]]; then
    echo "gpu.sh: $python lacks: $missing; pip install '.[pretrain]', or set PYTHON=... to a Python that has them" >&2
    exit 2
fi

seconds=520 previous=""
for option in "$@"; do
    [[ "$previous" == --seconds ]] && seconds="$option"
    [[ "$option" == --seconds=* ]] && seconds="${option#*=}"
    previous="$option"
done
end=$(( $(date +%s) + seconds ))
status=0
for attempt in 1 2 3 4 5 6; do  # a process that died, or whose device did, is followed by another
    left=$(( end - $(date +%s) ))
    (( left < 10 )) && { status=3; break; }
    timeout -k 10 "$(( left + 10 ))" "$python" -m benchmarks.gpu "$@" --until "$end"
    status=$?
    [[ "$status" == 0 || "$status" == 2 || "$status" == 3 || "$status" == 130 ]] && break
    echo "gpu.sh: the process ended with status $status; going on with the next cell" >&2
done
exit "$status"
